"""Opens the state that a URL names, or says clearly why it cannot be opened.

Drivers are imported only inside the functions, so that a command line that talks to a
daemon never loads them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchd.errors import (
    ConfigurationError,
    SchemaInUse,
    SchemaTooNew,
    SchemaTooOld,
    StateMissing,
    StateUnreadable,
)
from orchd.ledger.locking import Owner, WriterLock, has_open, in_use
from orchd.ledger.urls import canonical_url, is_sqlite, masked_url, sqlite_path
from orchd.system import ProcessIdentity, System

if TYPE_CHECKING:
    from orchd.ledger.sql import SQLLedger

Access = Literal["write", "read"]

_SQLITE_HEADER = b"SQLite format 3\0"
_NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "ceph", "fuse.sshfs"}
)
_DIRECTORY_MODE = 0o700
CONNECT_SECONDS = 5
_ROOM_BYTES = 64 * 1024
"""With less than this SQLite cannot even open a state."""


def open_ledger(
    url: str,
    *,
    system: System,
    access: Access,
    create: bool,
    migrate: bool,
    in_use: bool = False,
) -> SQLLedger:
    """Open a ledger; `SQLLedger.open` then connects it.

    Args:
        url: the state, as in `database` of the configuration.
        system: the clock of a SQLite ledger.
        access: on SQLite one process at a time may `write`; any number may `read`.
        create: make the state when there is none.
        migrate: upgrade an older schema.
        in_use: upgrade it even while daemons of the release before are at work on it.

    Raises:
        ConfigurationError: the URL is none that orchd understands.
        StateMissing: there is no state, and `create` is not set.
        StateLocked: another process writes to it.
        StateUnreadable: it is there, but not usable.
        SchemaTooOld: it must be upgraded, and `migrate` is not set.
        SchemaInUse: it must be upgraded, but other daemons are at work on it.
        SchemaTooNew: a newer release made it.
    """
    _require_understood(url)
    if is_sqlite(url):
        return _open_sqlite(
            sqlite_path(url),
            system,
            write=access == "write",
            create=create,
            migrate=migrate,
        )
    return _open_postgresql(
        url, create=create and access == "write", migrate=migrate, in_use=in_use
    )


def _require_understood(url: str) -> None:
    from orchd_eventstore.addresses import postgres_parameters

    try:
        canonical_url(url)
        if not is_sqlite(url):
            postgres_parameters(url)
    except ValueError as error:
        raise ConfigurationError("database", str(error), masked_url(url)) from error


# --- SQLite ---------------------------------------------------------------------------


def _open_sqlite(
    path: Path, system: System, *, write: bool, create: bool, migrate: bool
) -> SQLLedger:
    from orchd.ledger.dialects import SQLITE
    from orchd.ledger.schema import PROJECTIONS
    from orchd.ledger.sql import SQLLedger
    from orchd_eventstore import EventStore

    _require_file(path, create=write and create)
    with ExitStack() as stack:
        lock = stack.enter_context(WriterLock(path)) if write else None
        with _readable(str(path)):
            with _sqlite_connection(path, write=write) as connection:
                if write:
                    _require_unheld(connection, path, system)
                _prepare(connection, str(path), create=write and create, migrate=migrate)
            store = EventStore.open(
                f"sqlite:///{path}", PROJECTIONS, clock=system.now, read_only=not write
            )
        stack.pop_all()
    return SQLLedger(store, SQLITE, lock)


def _require_file(path: Path, *, create: bool) -> None:
    missing = StateMissing(f"no state at {path}; `orchd serve` or a submission makes one")
    try:
        if create:
            path.parent.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        elif not path.exists():
            raise missing
        _require_local(path.parent)
        if path.exists():
            _require_database(path, missing, create=create)
    except OSError as error:
        raise StateUnreadable(
            f"{error.filename or path} cannot be used: {error.strerror}"
        ) from error


def _require_database(path: Path, missing: StateMissing, *, create: bool) -> None:
    found = path.stat()
    if not path.is_file():
        raise StateUnreadable(f"{path} is not a file")
    if found.st_size == 0:
        if not create:
            raise missing
        return
    if found.st_nlink > 1:
        # Each name would have a lock and a write-ahead log of its own.
        raise StateUnreadable(
            f"{path} has {found.st_nlink} hard links; a database may have one name only"
        )
    with path.open("rb") as file:
        if file.read(len(_SQLITE_HEADER)) != _SQLITE_HEADER:
            raise StateUnreadable(f"{path} is not a SQLite database")


def _require_local(directory: Path) -> None:
    kind = file_system(directory)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise StateUnreadable(
            f"{directory} is on a network file system ({kind}), where SQLite cannot lock; "
            "use a local directory, or PostgreSQL"
        )


def file_system(directory: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Return the type of the file system below a directory, or an empty text."""
    device = directory.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        # proc(5): the device is the third field, the type follows a lone hyphen.
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == wanted:
            return rest.split()[0]
    return ""


def _require_unheld(connection: Any, path: Path, system: System) -> None:
    """Refuse a state whose owner is alive though its lock file was removed."""
    import orchd_migrations as migrations

    if migrations.current(connection) is not None:
        rows = connection.execute("SELECT host, boot_id, pid, process_start FROM workers")
        own = system.identity()
        for row in map(ProcessIdentity._make, rows):
            if (
                row[:2] == own[:2]
                and row.pid != own.pid
                and row.start is not None
                and system.process_start(row.pid) == row.start
                and has_open(row.pid, path)
            ):
                owner = Owner(host=row.host, pid=row.pid, process_start=row.start)
                raise in_use(path, owner)


@contextmanager
def _sqlite_connection(path: Path, *, write: bool) -> Iterator[Any]:
    from orchd_eventstore.sqlite import driver

    uri = f"{path.as_uri()}?mode={'rwc' if write else 'ro'}"
    with closing(driver().connect(uri, uri=True, isolation_level=None)) as connection:
        yield connection


# --- PostgreSQL -----------------------------------------------------------------------


def _open_postgresql(url: str, *, create: bool, migrate: bool, in_use: bool) -> SQLLedger:
    from orchd.ledger.dialects import POSTGRESQL
    from orchd.ledger.schema import PROJECTIONS
    from orchd.ledger.sql import SQLLedger
    from orchd_eventstore import EventStore

    named = masked_url(url)
    _require_driver()
    with _readable(named):
        with postgresql_connection(url) as connection:
            if migrate and not in_use:
                _require_unused(connection, named)
            _prepare(connection, named, create=create, migrate=migrate)
        store = EventStore.open(url, PROJECTIONS)
    return SQLLedger(store, POSTGRESQL)


def _require_driver() -> None:
    try:
        import psycopg  # noqa: F401  # only to learn whether it is there
    except ImportError as error:
        raise StateUnreadable(
            "PostgreSQL needs its driver; install it with: pip install 'orchd[postgres]'"
        ) from error


@contextmanager
def postgresql_connection(url: str) -> Iterator[Any]:
    """Lend a connection of its own in autocommit mode; raises what the driver raises."""
    import psycopg

    from orchd_eventstore.addresses import postgres_parameters

    parameters = postgres_parameters(url) | {"connect_timeout": CONNECT_SECONDS}
    with closing(psycopg.connect(**parameters, autocommit=True)) as connection:
        yield connection


# --- both -----------------------------------------------------------------------------


@contextmanager
def _readable(named: str) -> Iterator[None]:
    """Turn what the databases raise into what a person can act on."""
    from orchd_eventstore import EventStoreError
    from orchd_eventstore.errors import translated

    try:
        with translated():
            yield
    except EventStoreError as error:
        text = " ".join(str(error.__cause__ or error).split())
        if "full" not in text and _is_disk_full(named):
            # SQLite calls it an I/O error when it has no room for its shared memory.
            text += "; its disk is full"
        raise StateUnreadable(f"the state at {named} cannot be used: {text}") from error


def _is_disk_full(named: str) -> bool:
    try:
        found = os.statvfs(Path(named).parent)
    except OSError:
        # A URL, or a directory that is not there.
        return False
    return found.f_bavail * found.f_frsize < _ROOM_BYTES


def _prepare(connection: Any, named: str, *, create: bool, migrate: bool) -> None:
    """Check the schema's version, and upgrade it where that is wanted."""
    import orchd_migrations as migrations

    found = _version(connection, named)
    if found == migrations.HEAD:
        return
    if found is not None and found not in migrations.REVISIONS:
        raise SchemaTooNew(found, migrations.HEAD)
    if found is None and not create:
        raise StateMissing(f"no state at {named}; `orchd serve` or a submission makes one")
    if found is not None and not migrate:
        raise SchemaTooOld(
            f"the schema of {named} is {found} and this orchd needs {migrations.HEAD}; "
            "run `orchd db upgrade`"
        )
    migrations.upgrade(connection)


def _version(connection: Any, named: str) -> str | None:
    """Return the schema's version, or None of a database that holds nothing."""
    import orchd_migrations as migrations

    found = migrations.current(connection)
    if found is not None:
        return found
    tables = migrations.tables(connection) - {"alembic_version"}
    if tables:
        # Another daemon may have built all of it since the first look.
        found = migrations.current(connection)
    if found is None:
        _require_nothing_else(tables, named, migrations.dialect_of(connection))
    return found


def _require_nothing_else(tables: set[str], named: str, dialect: str) -> None:
    """Refuse a database without a version that is not empty: it is no state of orchd."""
    if {"log_head", "tasks"} <= tables:
        raise StateUnreadable(
            f"the state at {named} has lost the version of its schema (the row of "
            "alembic_version); restore a backup, or write back the version that it had"
        )
    if tables and dialect == "sqlite":
        some = ", ".join(sorted(tables)[:3])
        raise StateUnreadable(
            f"{named} is a SQLite database of something else (it has the tables {some}); "
            "name a file of its own for orchd"
        )


def _require_unused(connection: Any, named: str) -> None:
    """Refuse to change an older schema behind the backs of those who work on it."""
    import orchd_migrations as migrations

    found = migrations.current(connection)
    if found is None or found not in migrations.REVISIONS[:-1]:
        return
    living = connection.execute(
        "SELECT host, pid, release FROM workers WHERE NOT fenced AND expires_at >"
        " extract(epoch FROM clock_timestamp()) * 1000000 ORDER BY started_at"
    ).fetchall()
    if living:
        who = ", ".join(
            f"{pid} on {host} (orchd {release})" for host, pid, release in living
        )
        raise SchemaInUse(
            f"the schema of {named} is {found}, this orchd needs a newer one, and other "
            f"daemons are at work on it: {who}; stop them, or run `orchd db upgrade`, "
            "which they survive, and start again"
        )
