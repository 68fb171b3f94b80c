"""Checkpoints are verified copies, and a state restored from one is the state."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from orchd.errors import StateUnreadable
from orchd.maintenance import checkpoint_file, checkpoints
from orchd.maintenance.difference import Difference
from orchd.maintenance.errors import CheckpointInvalid, CheckpointRefused
from orchd.maintenance.exporting import export
from orchd.maintenance.replay import check
from orchd.maintenance.verifying import verify_log
from orchd.system import RealSystem
from orchd_eventstore.chain import GENESIS_HASH, commit_hash
from support.engines import Harness, ScriptedExecutor, until
from support.postgres import PostgresServer
from support.tampering import connected, query, tamper
from support.templates import StateTemplates

SYSTEM = RealSystem()
BACKUPS = int(os.environ.get("ORCHD_TEST_BACKUPS", "2"))
FLIPS = int(os.environ.get("ORCHD_TEST_FLIPS", "150"))
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
def history_checkpoint(histories: StateTemplates, path: Path, tmp_path: Path) -> Path:
    with histories.copy("sqlite", tmp_path) as url:
        checkpoints.create(url, path, system=SYSTEM)
    checkpoints.verify(path)
    return path


@pytest.mark.parametrize("content", [b"", b"hello", b"SQLite format 3\0" + b"x" * 5000])
def test_what_is_no_checkpoint_is_refused(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    for place in (path, path.with_name("missing"), path.parent):
        with pytest.raises(CheckpointInvalid, match=str(place)):
            checkpoints.verify(place)


def test_a_newer_format_is_named(history_checkpoint: Path) -> None:
    with sqlite3.connect(history_checkpoint) as connection:
        connection.execute(
            "UPDATE manifest SET value = 'orchd checkpoint 9' WHERE key = 'format'"
        )
    connection.close()
    with pytest.raises(CheckpointInvalid, match=r"has format 9.* newer one"):
        checkpoints.verify(history_checkpoint)


def test_a_truncated_checkpoint_is_refused(history_checkpoint: Path) -> None:
    whole = history_checkpoint.read_bytes()
    for length in (0, 1, 99, 100, 4096, len(whole) // 2, len(whole) - 4096, len(whole) - 1):
        history_checkpoint.write_bytes(whole[:length])
        with pytest.raises(CheckpointInvalid):
            checkpoints.verify(history_checkpoint)


@pytest.mark.timeout(600)
def test_a_flipped_bit_is_refused_or_changes_nothing(history_checkpoint: Path) -> None:
    chance = random.Random(1)
    whole = history_checkpoint.read_bytes()
    content = _content(history_checkpoint)
    refused = 0
    for _ in range(FLIPS):
        offset = chance.randrange(len(whole))
        flipped = bytearray(whole)
        flipped[offset] ^= 1 << chance.randrange(8)
        history_checkpoint.write_bytes(flipped)
        try:
            checkpoints.verify(history_checkpoint)
        except CheckpointInvalid:
            refused += 1
        else:
            assert _content(history_checkpoint) == content, offset
    assert refused > FLIPS // 3


def _content(path: Path) -> list[object]:
    """Return everything that a checkpoint says, as whoever restores it reads it."""
    with closing(checkpoint_file.connect(path, "ro")) as connection:
        reader = checkpoint_file.CheckpointReader(connection, path)
        return [
            reader.manifest(),
            *reader.commits(),
            *reader.events(0, 10**9),
            *reader.erasures(0, 10**9),
            *reader.blobs(),
        ]


@pytest.mark.parametrize("number", [1, 2])
def test_checkpoints_of_older_formats_are_still_read(
    history_checkpoint: Path, tmp_path: Path, number: int
) -> None:
    make_older(history_checkpoint, number)
    manifest = checkpoints.verify(history_checkpoint)
    assert manifest.format == number
    url = f"sqlite:///{tmp_path}/restored.db"
    checkpoints.restore(history_checkpoint, url, system=SYSTEM)
    assert list(check(url, system=SYSTEM)) == []
    with sqlite3.connect(history_checkpoint) as connection:
        connection.execute("UPDATE blobs SET hash = 'x'")
    connection.close()
    with pytest.raises(CheckpointInvalid):
        checkpoints.verify(history_checkpoint)


def make_older(path: Path, number: int) -> None:
    """Turn a checkpoint into one that an older release wrote."""
    rules = 1 if number == 1 else 2
    with closing(checkpoint_file.connect(path, "rw")) as connection:
        reader = checkpoint_file.CheckpointReader(connection, path)
        chain = GENESIS_HASH
        for commit in list(reader.commits()):
            first = commit.last_position - commit.events
            events = reader.events(first, commit.last_position)
            chain = commit_hash(chain, commit.command_id, commit.recorded_at, events, rules)
            update = "UPDATE commits SET hash = ?, rules = ? WHERE last_position = ?"
            connection.execute(update, (chain, rules, commit.last_position))
        digest = hashlib.sha256(chain.encode())
        for name, *_ in reader.blobs():
            digest.update(name.encode())
        values = {
            "hash": chain,
            "digest": digest.hexdigest(),
            "format": f"orchd checkpoint {number}",
        }
        for key, value in values.items():
            connection.execute("UPDATE manifest SET value = ? WHERE key = ?", (value, key))
        connection.execute("DELETE FROM manifest WHERE key = 'erasures'")
        connection.execute("DROP TABLE erasures")
        if number == 1:
            connection.execute("ALTER TABLE commits DROP COLUMN rules")


def test_a_checkpoint_holds_the_bodies_that_its_events_refer_to_and_no_other(
    state_url: str, path: Path
) -> None:
    with connected(state_url) as connection:
        body = b"of a task that came after"
        insert = sa.text("INSERT INTO blobs VALUES (:hash, :size, 'identity', :body)")
        values = {"hash": hashlib.sha256(body).hexdigest(), "size": 25, "body": body}
        connection.execute(insert, values)
    manifest = checkpoints.create(state_url, path, system=SYSTEM)
    referred = query(
        state_url,
        "SELECT DISTINCT description_blob FROM tasks WHERE description_blob IS NOT NULL"
        " UNION SELECT result_blob FROM tasks WHERE result_blob IS NOT NULL",
    )
    assert manifest.blobs == len(referred) > 0


def test_a_damaged_body_is_not_copied(state_url: str, path: Path) -> None:
    tamper(state_url, "UPDATE blobs SET body = ?", (b"forged",))
    with pytest.raises(StateUnreadable, match="is damaged"):
        checkpoints.create(state_url, path, system=SYSTEM)
    assert not path.exists()


def test_a_damaged_log_is_not_copied(state_url: str, path: Path) -> None:
    tamper(state_url, "UPDATE events SET data = '{}' WHERE position = 2")
    with pytest.raises(StateUnreadable, match="log verify"):
        checkpoints.create(state_url, path, system=SYSTEM)
    assert not path.exists()


def test_what_a_killed_process_left_of_a_checkpoint_is_in_nobodys_way(
    state_url: str, path: Path
) -> None:
    path.parent.mkdir()
    stale = path.with_name(f"{path.name}.999999999.part")
    stale.write_text("half")
    other = path.with_name(f"other.orchd.{SYSTEM.now()}.part")
    other.write_text("somebody else's")
    checkpoints.create(state_url, path, system=SYSTEM)
    assert {entry.name for entry in path.parent.iterdir()} == {path.name, other.name}


def test_a_file_system_without_links_holds_checkpoints_too(
    state_url: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    checkpoints.create(state_url, path, system=SYSTEM)
    checkpoints.verify(path)
    with pytest.raises(CheckpointRefused):
        checkpoints.create(state_url, path, system=SYSTEM)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


# --- beside a busy engine -------------------------------------------------------------


async def test_backups_under_load_hold_whatever_was_accepted_before_they_began(
    database_url: str, tmp_path: Path
) -> None:
    accepted: list[str] = []
    harness = await Harness.open(database_url, [ScriptedExecutor()])

    async def submit_for_ever() -> None:
        while True:
            number = len(accepted)
            await harness.submit(f"t{number:06d}", description=f"text {number}" * 10)
            accepted.append(f"t{number:06d}")

    working = asyncio.create_task(submit_for_ever())
    try:
        for number in range(BACKUPS):
            await until(lambda: len(accepted) > 100)
            before = set(accepted)
            place = tmp_path / f"backup-{number}.orchd"
            await asyncio.to_thread(_back_up, database_url, place)
            url = f"sqlite:///{tmp_path}/restored-{number}.db"
            await asyncio.to_thread(checkpoints.restore, place, url, system=SYSTEM)
            restored = await asyncio.to_thread(query, url, "SELECT id FROM tasks")
            assert before <= {row[0] for row in restored}
            assert await asyncio.to_thread(_differences, url) == []
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await harness.close()


def _differences(url: str) -> list[Difference]:
    return list(check(url, system=SYSTEM))


def _back_up(url: str, place: Path) -> None:
    made = checkpoints.create(url, place, system=SYSTEM)
    # On SQLite only the engine may write; the command line asks it to.
    assert made.recorded is not url.startswith("sqlite")
    assert checkpoints.verify(place).position == made.position


# --- a restore that is killed ---------------------------------------------------------

RESTORER = """
import os, signal, sys
from orchd.maintenance.checkpoints import restore
from orchd.system import RealSystem
left = int(sys.argv[3])
def tell(what, done, total):
    global left
    if what == sys.argv[4]:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
restore(sys.argv[1], sys.argv[2], system=RealSystem(), progress=tell)
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_restore_that_is_killed_leaves_nothing_half(
    kind: str, history_checkpoint: Path, tmp_path: Path, postgres_server: PostgresServer
) -> None:
    commits = checkpoints.verify(history_checkpoint).commits
    # While the log is copied, when it has been, and when everything has been folded.
    moments = [("events", commits + 5), ("events", 2 * commits), ("rows", 1)]
    with postgres_server.database() as empty:
        url = f"sqlite:///{tmp_path}/restored.db" if kind == "sqlite" else empty
        for what, number in moments:
            arguments = (str(history_checkpoint), url, str(number), what)
            done = subprocess.run((sys.executable, "-c", RESTORER, *arguments), timeout=120)
            assert done.returncode == -signal.SIGKILL, (what, number)
            _require_empty(url)
        restored = checkpoints.restore(history_checkpoint, url, system=SYSTEM)
        assert query(url, "SELECT hash FROM log_head") == [(restored.hash,)]
        assert _differences(url) == []


def _require_empty(url: str) -> None:
    with connected(url) as connection:
        tables = set(sa.inspect(connection).get_table_names())
        for table in tables - {"log_head", "alembic_version"}:
            found = connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar()
            assert found == 0, table


# --- a full disk ----------------------------------------------------------------------

CRAMPED = """
import resource, signal, sys
from orchd.errors import OrchdError
from orchd.maintenance.checkpoints import create
from orchd.system import RealSystem
# What a file may grow to is limited as a full disk would limit it.
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    create(sys.argv[1], sys.argv[2], system=RealSystem())
except OrchdError as error:
    sys.exit(f"{error.exit_code} {error}")
"""


def test_a_full_disk_leaves_no_checkpoint_and_is_said(
    large_states: StateTemplates, tmp_path: Path
) -> None:
    place = tmp_path / "copy.orchd"
    with large_states.copy("sqlite", tmp_path) as url:
        for size in (50_000, 1_000_000):
            done = subprocess.run(
                (sys.executable, "-c", CRAMPED, url, str(place), str(size)),
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 1
            assert done.stderr.startswith(f"69 cannot write {place}: "), done.stderr
            assert sorted(tmp_path.glob("copy.*")) == []
        checkpoints.create(url, place, system=SYSTEM)
