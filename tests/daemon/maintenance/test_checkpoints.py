"""Checkpoints are verified copies, and a state restored from one is the state."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from orchd.errors import StateUnreadable
from orchd.maintenance import checkpoints
from orchd.maintenance.errors import CheckpointInvalid, CheckpointRefused
from orchd.maintenance.exporting import export
from orchd.maintenance.replay import check
from orchd.maintenance.verifying import verify_log
from orchd.system import RealSystem
from support.engines import Harness, ScriptedExecutor
from support.histories import make_history
from support.postgres import PostgresServer
from support.tampering import query, tamper

SYSTEM = RealSystem()
TABLES = ("tasks", "queues", "breakers", "ready", "timers")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "copies" / "copy.orchd"


def everything(url: str) -> dict[str, list[object]]:
    return {table: query(url, f"SELECT * FROM {table} ORDER BY 1") for table in TABLES}


@pytest.mark.parametrize("target", ["sqlite", "postgresql"])
def test_a_restored_state_is_the_state(
    state_url: str,
    target: str,
    path: Path,
    tmp_path: Path,
    postgres_server: PostgresServer,
) -> None:
    manifest = checkpoints.create(state_url, path, system=SYSTEM)
    exported = list(export(state_url, system=SYSTEM, until=manifest.position))
    with postgres_server.database() as empty:
        url = f"sqlite:///{tmp_path}/restored.db" if target == "sqlite" else empty
        restored = checkpoints.restore(path, url, system=SYSTEM)
        assert restored.hash == manifest.hash
        assert list(export(url, system=SYSTEM)) == exported
        assert list(check(url, system=SYSTEM)) == []
        verdict = verify_log(url, system=SYSTEM)
        assert (verdict.ok, verdict.hash) == (True, manifest.hash)
        if url.partition(":")[0] == state_url.partition(":")[0]:
            assert everything(url) == everything(state_url)


def test_large_bodies_come_back(state_url: str, path: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/restored.db"
    checkpoints.create(state_url, path, system=SYSTEM)
    checkpoints.restore(path, url, system=SYSTEM)
    hashes = "SELECT hash, size FROM blobs ORDER BY hash"
    assert query(url, hashes)
    assert [tuple(row) for row in query(url, hashes)] == [
        tuple(row) for row in query(state_url, hashes)
    ]


async def test_work_goes_on_from_a_restored_state(state_url: str, path: Path) -> None:
    url = f"sqlite:///{path.parent}/restored.db"
    await asyncio.to_thread(checkpoints.create, state_url, path, system=SYSTEM)
    await asyncio.to_thread(checkpoints.restore, path, url, system=SYSTEM)
    harness = await Harness.open(url, [ScriptedExecutor()])
    await harness.submit("new", queue="fresh")
    state = await harness.task("new")
    await harness.close()
    assert state.version >= 1
    assert await asyncio.to_thread(lambda: list(check(url, system=SYSTEM))) == []
    assert (await asyncio.to_thread(verify_log, url, system=SYSTEM)).ok


def test_a_checkpoint_is_recorded_and_listed(state_url: str, path: Path) -> None:
    made = checkpoints.create(state_url, path, system=SYSTEM)
    assert made.recorded
    [view] = checkpoints.list_checkpoints(state_url, system=SYSTEM)
    assert (view.path, view.position, view.digest) == (
        str(path),
        made.position,
        made.digest,
    )
    assert view.present
    assert view.recorded
    assert list(check(state_url, system=SYSTEM)) == []
    path.unlink()
    [gone] = checkpoints.list_checkpoints(state_url, system=SYSTEM)
    assert not gone.present


def test_a_second_checkpoint_does_not_replace_the_first(state_url: str, path: Path) -> None:
    checkpoints.create(state_url, path, system=SYSTEM)
    before = path.read_bytes()
    with pytest.raises(CheckpointRefused):
        checkpoints.create(state_url, path, system=SYSTEM)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_checkpoint_never_outranks_a_log(state_url: str, path: Path) -> None:
    checkpoints.create(state_url, path, system=SYSTEM)
    before = everything(state_url)
    with pytest.raises(CheckpointRefused):
        checkpoints.restore(path, state_url, system=SYSTEM)
    assert everything(state_url) == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET data = '{}' WHERE position = 2",
        "DELETE FROM events WHERE position = (SELECT max(position) FROM events)",
        "INSERT INTO events SELECT 99999, stream, version, type, data, meta, recorded_at"
        " FROM events WHERE position = 1",
        "UPDATE commits SET command_id = 'x'"
        " WHERE last_position = (SELECT min(last_position) FROM commits)",
        "DELETE FROM commits WHERE last_position"
        " = (SELECT max(last_position) FROM commits)",
        "UPDATE blobs SET body = 'x'",
        "DELETE FROM blobs",
        "UPDATE manifest SET value = 'x' WHERE key = 'hash'",
        "UPDATE manifest SET value = 'x' WHERE key = 'position'",
        "UPDATE manifest SET value = 'x' WHERE key = 'format'",
        "DROP TABLE manifest",
    ],
)
def test_a_changed_checkpoint_is_refused(
    history_checkpoint: Path, tmp_path: Path, statement: str
) -> None:
    with sqlite3.connect(history_checkpoint) as connection:
        connection.execute(statement)
    connection.close()
    with pytest.raises(CheckpointInvalid):
        checkpoints.verify(history_checkpoint)
    url = f"sqlite:///{tmp_path}/never.db"
    with pytest.raises(CheckpointInvalid):
        checkpoints.restore(history_checkpoint, url, system=SYSTEM)
    assert not (tmp_path / "never.db").exists()


@pytest.fixture
def history_checkpoint(sqlite_url: str, path: Path) -> Path:
    asyncio.run(make_history(sqlite_url))
    checkpoints.create(sqlite_url, path, system=SYSTEM)
    checkpoints.verify(path)
    return path


@pytest.mark.parametrize("content", [b"", b"hello", b"SQLite format 3\0" + b"x" * 5000])
def test_what_is_no_checkpoint_is_refused(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(CheckpointInvalid):
        checkpoints.verify(path)
    with pytest.raises(CheckpointInvalid):
        checkpoints.verify(path.with_name("missing"))


def test_a_damaged_log_is_not_copied(state_url: str, path: Path) -> None:
    tamper(state_url, "UPDATE events SET data = '{}' WHERE position = 2")
    with pytest.raises(StateUnreadable, match="log verify"):
        checkpoints.create(state_url, path, system=SYSTEM)
    assert not path.exists()


async def test_a_checkpoint_is_made_beside_a_busy_engine(
    sqlite_url: str, path: Path
) -> None:
    harness = await Harness.open(sqlite_url, [ScriptedExecutor()])
    await harness.submit("a")
    made = await asyncio.to_thread(checkpoints.create, sqlite_url, path, system=SYSTEM)
    await harness.close()
    assert not made.recorded
    assert checkpoints.verify(path).position == made.position
