"""One writer process per SQLite file, by a lock beside it.

The lock is on `<real path>.lock` and never on the database itself: closing any descriptor
of a file drops all locks that the process holds on it, SQLite's own included. Its file may
be removed by somebody who tidies up. So a writer looks after it at every commit, and who
finds it free asks the leases whether one of their processes has the database open.
"""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path
from types import TracebackType

import msgspec

from orchd import system
from orchd.errors import StateLocked, StateUnreadable

_LOCK_MODE = 0o600

logger = logging.getLogger(__name__)


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds a lock, as the lock file says."""

    host: str
    pid: int
    process_start: int | None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class WriterLock:
    """Holds the right to write to a SQLite file until it is left.

    Args:
        database: the file's real path.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._path = Path(f"{database}.lock")
        self._descriptor: int | None = None
        self._file: tuple[int, int] | None = None

    def __enter__(self) -> WriterLock:
        """Take the lock.

        Raises:
            StateLocked: another process, or another ledger of this one, has it.
            StateUnreadable: the lock file cannot be made or written.
        """
        self._take()
        return self

    def keep(self) -> None:
        """Take the lock anew when somebody has removed or replaced its file.

        A lock on a file without a name keeps nobody out; raises what `__enter__` raises.
        """
        if _file_at(self._path) == self._file:
            return
        self._release()
        self._take()
        logger.warning("the lock file %s was removed or replaced; made anew", self._path)

    def _take(self) -> None:
        while self._descriptor is None:
            descriptor = self._open()
            try:
                self._lock(descriptor)
            except OSError as error:
                os.close(descriptor)
                raise StateUnreadable(
                    f"cannot write the lock file {self._path}: {error.strerror}"
                ) from error
            except BaseException:
                os.close(descriptor)
                raise
            self._file = _identity(os.fstat(descriptor))
            if _file_at(self._path) == self._file:
                self._descriptor = descriptor
            else:
                # It was removed between the two calls: this is a lock on nothing.
                os.close(descriptor)

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _LOCK_MODE)
        except OSError as error:
            raise StateUnreadable(
                f"cannot make the lock file {self._path}: {error.strerror}; "
                "the directory must be writable by this user, and have room"
            ) from error

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _read_owner(descriptor)
            raise in_use(self._database, owner) from None
        pid = system.own_pid()
        owner = Owner(
            host=system.host_name(), pid=pid, process_start=system.process_start(pid)
        )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, msgspec.json.encode(owner), 0)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the lock back. The file stays: removing it would let two hold it."""
        self._release()

    def _release(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        self._file = None
        if descriptor is not None:
            os.ftruncate(descriptor, 0)
            os.close(descriptor)


def in_use(database: Path, owner: Owner | None) -> StateLocked:
    """Return the error that says who writes to a SQLite file."""
    named = "another process" if owner is None else str(owner)
    return StateLocked(
        f"{database} is in use by {named}; "
        "stop it, or talk to it instead of opening its state",
        named,
    )


def has_open(pid: int, path: Path) -> bool:
    """Tell whether a process of this machine has a file open, as /proc says; proc(5).

    True as well when this user may not know.
    """
    wanted = _file_at(path)
    try:
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return any(_file_at(descriptor) == wanted for descriptor in descriptors)


def _file_at(path: Path) -> tuple[int, int] | None:
    try:
        return _identity(os.stat(path))
    except OSError:
        return None


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def current_owner(database: Path) -> Owner | None:
    """Return which living process of this machine has a SQLite file open for writing."""
    try:
        descriptor = os.open(f"{database}.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        owner = _read_owner(descriptor)
    finally:
        os.close(descriptor)
    if owner is None or owner.process_start is None:
        return None
    alive = system.process_start(owner.pid) == owner.process_start
    return owner if alive and owner.host == system.host_name() else None


def _read_owner(descriptor: int) -> Owner | None:
    try:
        return msgspec.json.decode(os.pread(descriptor, 4096, 0), type=Owner)
    except (msgspec.DecodeError, OSError):
        return None
