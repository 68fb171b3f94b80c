"""The data and the process of a PostgreSQL server that the tests start themselves."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.processes import ServerProcess, free_port

START_ATTEMPTS_MAX = 3
MEMORY_FOLDER = "/dev/shm"
MEMORY_BYTES_MIN = 2 * 1024**3
READY_MARK = "database system is ready to accept connections"
# Fast, then immediate, then without asking.
STOP_SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)


class Cluster:
    """One cluster's data, with or without a server that runs on them.

    Args:
        binaries: the folder of `postgres`.
        data: the folder that holds the cluster.
        settings: those of `postgresql.conf`, without the port.
    """

    def __init__(self, binaries: Path, data: Path, settings: dict[str, str]) -> None:
        self._binaries = binaries
        self._data = data
        self._settings = settings
        self._process: ServerProcess | None = None
        self.sockets = settings["unix_socket_directories"]
        self.port = 0

    def start_anywhere(self) -> None:
        """Start the server on a port that nobody has."""
        for _ in range(START_ATTEMPTS_MAX):
            # Somebody else may take the port before the server does: hence the attempts.
            self.port = free_port()
            if self._start_once():
                return
        self._fail()

    def start(self) -> None:
        """Start the server again, on the port it had; return when it answers."""
        for _ in range(START_ATTEMPTS_MAX):
            # The last process of a server that crashed may still hold its memory.
            if self._start_once():
                return
        self._fail()

    def crash(self) -> None:
        """End the server as `pg_ctl -m immediate` does: nothing is flushed or said."""
        assert self._process is not None
        self._process.stop((signal.SIGQUIT,))

    def stop(self) -> None:
        """End the server in good order; idempotent."""
        if self._process is not None:
            self._process.stop(STOP_SIGNALS)

    def _start_once(self) -> bool:
        options = [f"--{name}={value}" for name, value in self._settings.items()]
        self._process = ServerProcess(
            [
                str(self._binaries / "postgres"),
                *("-D", str(self._data / "data"), f"--port={self.port}"),
                *options,
            ],
            ready_mark=READY_MARK,
            cwd=self._data,
            **server_login(),
        )
        if self._process.wait_until_ready():
            return True
        self._process.stop(STOP_SIGNALS)
        return False

    def _fail(self) -> None:
        assert self._process is not None
        said = self._process.log
        raise RuntimeError(f"PostgreSQL of {self._binaries} did not start: {said}")


@contextlib.contextmanager
def folder(parent: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="orchd-pg-", dir=parent))
    try:
        give_to_server(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def quick_disk() -> str:
    """Name a folder in memory when there is room: databases are made 8 times faster."""
    with contextlib.suppress(OSError):
        memory = os.statvfs(MEMORY_FOLDER)
        free_bytes = memory.f_bavail * memory.f_frsize
        if free_bytes >= MEMORY_BYTES_MIN and os.access(MEMORY_FOLDER, os.W_OK):
            return MEMORY_FOLDER
    return "/tmp"


def server_login() -> dict[str, Any]:
    """PostgreSQL refuses to run as root, so root lends it to `nobody`."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def give_to_server(path: Path) -> None:
    if login := server_login():
        os.chown(path, login["user"], login["group"])


def readable_binaries(binaries: Path, base: Path) -> Path:
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
        give_to_server(Path(folder))
        for name in names:
            give_to_server(Path(folder, name))
    return copy / binaries.name


def _can_run(binaries: Path) -> bool:
    command = [str(binaries / "postgres"), "--version"]
    try:
        subprocess.run(command, check=True, capture_output=True, cwd="/", **server_login())
    except (PermissionError, subprocess.CalledProcessError):
        return False
    return True


def initialise(binaries: Path, data: Path) -> None:
    options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"]
    made = subprocess.run(
        [str(binaries / "initdb"), "-D", str(data / "data"), *options],
        cwd=data,
        capture_output=True,
        text=True,
        **server_login(),
    )
    if made.returncode != 0:
        message = f"initdb of {binaries} failed: {made.stderr}"
        raise RuntimeError(message)
