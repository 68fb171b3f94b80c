"""Opening a state works, or says what is wrong and what to do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import orchd_migrations
from orchd.errors import (
    ConfigurationError,
    SchemaInUse,
    SchemaTooNew,
    SchemaTooOld,
    StateLocked,
    StateMissing,
    StateUnreadable,
)
from orchd.ledger.locking import WriterLock, current_owner
from orchd.ledger.opening import file_system, open_ledger
from orchd.ledger.port import LedgerUnavailable
from orchd.ledger.sql import SQLLedger
from orchd.system import RealSystem
from orchd_eventstore.sqlite import driver
from orchd_migrations import HEAD, REVISIONS, scripts
from support.eventstores import autocommitting, connected
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


def test_a_state_is_made_and_opened_without_alembic_or_sqlalchemy(
    database_url: str,
) -> None:
    """Their imports take longer than everything else that a start does."""
    program = (
        "import sys\n"
        "from orchd.ledger.opening import open_ledger\n"
        "from orchd.system import RealSystem\n"
        "open_ledger(sys.argv[1], system=RealSystem(), access='write', create=True,"
        " migrate=True).close_blocking()\n"
        "assert not sys.modules.keys() & {'alembic', 'sqlalchemy'}\n"
    )
    for _ in ("made", "opened"):
        done = subprocess.run(
            [sys.executable, "-c", program, database_url], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


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


def remove_lock(path: Path) -> None:
    Path(f"{path}.lock").unlink()


async def test_a_lock_file_that_was_removed_is_made_anew_by_its_owner(path: Path) -> None:
    ledger = opened(f"sqlite:///{path}")
    remove_lock(path)
    await Hand(ledger).submit("a")
    assert current_owner(path) is not None
    with pytest.raises(StateLocked):
        opened(f"sqlite:///{path}")
    await ledger.close()


async def test_who_lost_its_lock_to_another_writes_nothing_until_that_is_gone(
    path: Path,
) -> None:
    ledger = opened(f"sqlite:///{path}")
    remove_lock(path)
    with WriterLock(path):
        with pytest.raises(LedgerUnavailable, match=f"in use by process {os.getpid()}"):
            await Hand(ledger).submit("a")
        with pytest.raises(LedgerUnavailable):
            await ledger.retire_worker("w")
    await Hand(ledger).submit("a")
    await ledger.close()


_HOLDER = """\
import asyncio, sys
from orchd.ledger.opening import open_ledger
from orchd.ledger.port import WorkerView
from orchd.system import RealSystem
system = RealSystem()
async def hold():
    ledger = open_ledger(
        sys.argv[1], system=system, access="write", create=True, migrate=True
    )
    here = system.identity()
    await ledger.register_worker(
        WorkerView(
            id="w", host=here.host, boot_id=here.boot_id, pid=here.pid,
            process_start=here.start, executors=(), verifiers=(), release="1",
            started_at=1, renewed_at=1, expires_at=1, fenced=False,
        ),
        0.001,
    )
    print("held", flush=True)
    sys.stdin.read()
asyncio.run(hold())
"""


def test_a_living_owner_keeps_its_state_though_its_lock_file_is_gone(path: Path) -> None:
    """Whoever thinks it is the only writer thinks that all other workers are dead."""
    url = f"sqlite:///{path}"
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        remove_lock(path)
        copy = path.with_name("copy.db")
        with contextlib.closing(driver().connect(str(path))) as connection:
            connection.execute("VACUUM INTO ?", (str(copy),))
        with pytest.raises(StateLocked, match=f"process {holder.pid} on"):
            opened(url)
        opened(f"sqlite:///{copy}").close_blocking()
        holder.kill()
    opened(url).close_blocking()


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


def test_a_database_of_something_else_is_left_alone(path: Path) -> None:
    with contextlib.closing(driver().connect(str(path))) as connection:
        connection.execute("CREATE TABLE mine (a)")
    for access in ("write", "read"):
        with pytest.raises(StateUnreadable, match=r"of something else.*mine"):
            opened(f"sqlite:///{path}", access=access)


def test_a_state_that_another_daemon_makes_meanwhile_is_taken_as_it_is(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    current, looks = orchd_migrations.current, []

    def slow(connection: Any) -> str | None:
        looks.append(current(connection))
        if len(looks) == 1:
            with autocommitting(postgres_url) as other:
                scripts.execute(other, scripts.schema("postgresql"))
        return looks[-1]

    monkeypatch.setattr(orchd_migrations, "current", slow)
    # With `in_use`, or the first look would be that for daemons at work.
    opened(postgres_url, in_use=True).close_blocking()
    assert looks == [None, HEAD]


async def test_a_state_without_its_version_is_not_taken_for_none(database_url: str) -> None:
    await opened(database_url).close()
    with connected(database_url) as connection:
        connection.exec_driver_sql("DELETE FROM alembic_version")
    for access in ("write", "read"):
        with pytest.raises(StateUnreadable, match="lost the version of its schema"):
            opened(database_url, access=access)


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
    monkeypatch.setattr("orchd_migrations.REVISIONS", ("0000", *REVISIONS))
    with pytest.raises(error):
        opened(f"sqlite:///{path}", migrate=False)


# --- the release before ---------------------------------------------------------------


def make_older(url: str) -> None:
    """Build the schema of the release before, empty."""
    dialect = "sqlite" if url.startswith("sqlite") else "postgresql"
    with connected(url) as connection:
        cursor = connection.connection.cursor()
        for statement in scripts.schema(dialect, REVISIONS[-2]):
            cursor.execute(statement)


def add_worker(url: str, *, expires_in: str) -> None:
    """Add the lease of a daemon that is not this one."""
    now = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    with connected(url) as connection:
        connection.exec_driver_sql(
            "INSERT INTO workers VALUES ('w', 'elsewhere', 'boot', 77, 1, '[]', '[]',"
            f" '0.0.9', 1, 1, {now} + {expires_in} * 1000000, FALSE)"
        )


def revision_of(url: str) -> str:
    with connected(url) as connection:
        query = "SELECT version_num FROM alembic_version"
        return str(connection.exec_driver_sql(query).scalar_one())


async def test_an_older_schema_is_upgraded_when_nobody_works_on_it(
    database_url: str,
) -> None:
    make_older(database_url)
    with pytest.raises(SchemaTooOld, match="orchd db upgrade"):
        opened(database_url, migrate=False)
    if database_url.startswith("postgresql"):
        add_worker(database_url, expires_in="-1")
    ledger = opened(database_url)
    await Hand(ledger).submit("a")
    await ledger.close()
    assert revision_of(database_url) == REVISIONS[-1]


async def test_an_older_schema_is_left_to_the_daemons_at_work_on_it(
    postgres_url: str,
) -> None:
    make_older(postgres_url)
    add_worker(postgres_url, expires_in="60")
    with pytest.raises(SchemaInUse, match=r"77 on elsewhere \(orchd 0\.0\.9\).*db upgrade"):
        opened(postgres_url)
    assert revision_of(postgres_url) == REVISIONS[-2]
    await opened(postgres_url, in_use=True).close()
    await opened(postgres_url).close()


async def test_the_release_before_goes_on_appending(postgres_url: str) -> None:
    """Its call is frozen here; its commits and the newer ones are one log."""
    make_older(postgres_url)
    append_as_before(postgres_url, "before")
    ledger = opened(postgres_url)
    await Hand(ledger).submit("between")
    append_as_before(postgres_url, "after")
    await Hand(ledger).submit("last")
    assert [entry.stream for entry in await ledger.log(after=0, limit=9)] == [
        "daemon-before",
        "task-between",
        "daemon-after",
        "task-last",
    ]
    assert ledger.store.verify().ok
    await ledger.close()


def append_as_before(url: str, name: str) -> None:
    """Append as the release with the first schema does."""
    event = {"item": 0, "stream": f"daemon-{name}", "version": 1, "expected": -1}
    event |= {"type": "daemon.stopped", "data": "{}", "meta": '{"at":1,"schema":1}'}
    parameters: list[Any] = [f"command-{name}", json.dumps([event]), "[]", None, True]
    parameters += [None, None, []] * 3
    with connected(url) as connection:
        call = f"SELECT eventstore_append({', '.join(['%s'] * 14)})"
        [answer] = connection.exec_driver_sql(call, tuple(parameters)).one()
        assert answer["won"] == [0]


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


def test_a_daemon_is_imported_without_what_it_needs_later_or_never() -> None:
    """Its first task waits for nothing that serves HTTP or writes the page of metrics."""
    program = (
        "import sys, orchd_ops.serve.daemon, orchd_ops.serve.process\n"
        "import orchd.ledger.sql, orchd_eventstore.postgres, orchd_eventstore.sqlite\n"
        "later = {'starlette', 'uvicorn', 'httptools', 'prometheus_client'}\n"
        "assert not sys.modules.keys() & {'alembic', 'sqlalchemy', *later}\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
