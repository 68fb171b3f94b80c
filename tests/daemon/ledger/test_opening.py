"""Opening a state works, or says what is wrong and what to do."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchd.errors import (
    ConfigurationError,
    SchemaTooNew,
    SchemaTooOld,
    StateLocked,
    StateMissing,
    StateUnreadable,
)
from orchd.ledger.opening import file_system, open_ledger
from orchd.ledger.sql import SQLLedger
from orchd.system import RealSystem
from orchd_eventstore.sqlite import driver
from support.ledgers import Hand


def opened(url: str, **options: Any) -> SQLLedger:
    known: dict[str, Any] = {"access": "write", "create": True, "migrate": True}
    return open_ledger(url, system=RealSystem(), **(known | options))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


async def test_a_state_is_made_and_found_again(database_url: str) -> None:
    ledger = opened(database_url)
    await Hand(ledger).submit("a")
    await ledger.close()
    ledger = opened(database_url, create=False, migrate=False)
    assert await ledger.task("a") is not None
    await ledger.close()


def test_without_create_there_must_be_a_state(database_url: str) -> None:
    with pytest.raises(StateMissing):
        opened(database_url, create=False)
    with pytest.raises(StateMissing):
        opened(database_url, access="read")


async def test_a_second_writer_is_told_who_the_first_is(path: Path) -> None:
    ledger = opened(f"sqlite:///{path}")
    link = path.with_name("link.db")
    link.symlink_to(path)
    for name in (path, link):
        with pytest.raises(StateLocked, match=f"process {os.getpid()} on") as caught:
            opened(f"sqlite:///{name}")
        assert str(os.getpid()) in caught.value.owner
    await ledger.close()
    await opened(f"sqlite:///{link}").close()


async def test_the_lock_of_a_killed_process_is_free(path: Path) -> None:
    code = (
        "import os, signal; from orchd.ledger.opening import open_ledger;"
        "from orchd.system import RealSystem;"
        f"open_ledger('sqlite:///{path}', system=RealSystem(), access='write',"
        " create=True, migrate=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code])
    assert ended.returncode == -9
    await opened(f"sqlite:///{path}").close()


async def test_another_may_read_while_one_writes(path: Path) -> None:
    writer = opened(f"sqlite:///{path}")
    reader = opened(f"sqlite:///{path}", access="read", create=False)
    await Hand(writer).submit("a")
    assert await reader.task("a") is not None
    await reader.close()
    await writer.close()


def test_a_file_that_is_no_database_is_named(path: Path) -> None:
    path.write_text("something else entirely")
    with pytest.raises(StateUnreadable, match="not a SQLite database"):
        opened(f"sqlite:///{path}")


def test_a_directory_is_no_state(tmp_path: Path) -> None:
    with pytest.raises(StateUnreadable, match="not a file"):
        opened(f"sqlite:///{tmp_path}")


async def test_a_database_with_two_names_is_refused(path: Path) -> None:
    await opened(f"sqlite:///{path}").close()
    os.link(path, path.with_name("other.db"))
    with pytest.raises(StateUnreadable, match="hard links"):
        opened(f"sqlite:///{path}")


async def test_a_damaged_database_is_refused(path: Path) -> None:
    await opened(f"sqlite:///{path}").close()
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 8000)
    with pytest.raises(StateUnreadable, match=r"state\.db"):
        opened(f"sqlite:///{path}")


def test_a_parent_that_is_a_file_is_refused(path: Path) -> None:
    path.write_text("")
    with pytest.raises(StateUnreadable):
        opened(f"sqlite:///{path / 'below.db'}")


@pytest.mark.parametrize("url", ["mysql://x/y", "sqlite://", "sqlite:///:memory:"])
def test_a_url_that_means_nothing_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError):
        opened(url)


def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(StateUnreadable) as caught:
        opened("postgresql://me:secret@127.0.0.1:1/orchd")
    assert "127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("revision", "error"), [("9999", SchemaTooNew), ("0000", SchemaTooOld)]
)
async def test_another_schema_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, revision: str, error: type[Exception]
) -> None:
    await opened(f"sqlite:///{path}").close()
    connection = driver().connect(str(path))
    connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.commit()
    connection.close()
    monkeypatch.setattr("orchd_migrations.REVISIONS", ("0000", "0001"))
    with pytest.raises(error):
        opened(f"sqlite:///{path}", migrate=False)


def test_a_file_system_is_read_from_the_mounts(tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts.write_text(
        f"1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 {number} / /x rw shared:1 - nfs4 h:/x rw\n"
    )
    assert file_system(tmp_path, mounts) == "nfs4"


def test_a_network_file_system_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchd.ledger.opening.file_system", lambda directory: "nfs4")
    with pytest.raises(StateUnreadable, match="network file system"):
        opened(f"sqlite:///{path}")
