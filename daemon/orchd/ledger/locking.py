"""One writer process per SQLite file, by a lock beside it.

The lock is on `<real path>.lock` and never on the database itself: closing any descriptor
of a file drops all locks that the process holds on it, SQLite's own included.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

import msgspec

from orchd import system
from orchd.errors import StateLocked, StateUnreadable

_LOCK_MODE = 0o600


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

    def __enter__(self) -> WriterLock:
        """Take the lock.

        Raises:
            StateLocked: another process, or another ledger of this one, has it.
            StateUnreadable: the lock file cannot be made or written.
        """
        try:
            descriptor = os.open(
                self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _LOCK_MODE
            )
        except OSError as error:
            raise StateUnreadable(
                f"cannot make the lock file {self._path}: {error.strerror}; "
                "the directory must be writable by this user, and have room"
            ) from error
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
        self._descriptor = descriptor
        return self

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _read_owner(descriptor)
            named = "another process" if owner is None else str(owner)
            raise StateLocked(
                f"{self._database} is in use by {named}; "
                "stop it, or talk to it instead of opening its state",
                named,
            ) from None
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
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.ftruncate(descriptor, 0)
            os.close(descriptor)


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
