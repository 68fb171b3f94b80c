"""The only door to time, ids, randomness, sleep and processes.

Everything in `orchd` that would make two runs of the same input differ passes through a
`System` value, so that a simulation can own it. A lint rule keeps the rest of the package
from importing `time`, `random`, `uuid`, `secrets`, `subprocess` and their like.

Instants are integers: microseconds since the Unix epoch, UTC. Spans of time in code are
seconds (`float`) and say so in their names.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

MICROSECONDS_PER_SECOND = 1_000_000


class System(Protocol):
    """What the orchestrator needs of the world besides its ledger."""

    def now(self) -> int:
        """Return the wall clock's instant in microseconds; it may jump."""
        ...

    def monotonic(self) -> float:
        """Return seconds on a clock that never jumps and counts through suspend."""
        ...

    def new_id(self) -> str:
        """Return a new UUIDv7 in its canonical text form, rising within a process."""
        ...

    def random(self) -> float:
        """Return a random float in [0, 1), for jitter and never for secrets."""
        ...

    def token(self, size_bytes: int = 32) -> str:
        """Return an unguessable URL-safe text made from `size_bytes` of entropy."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling coroutine for `seconds`."""
        ...

    def block(self, seconds: float) -> None:
        """Block the calling thread for `seconds`."""
        ...

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None = None,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = subprocess.DEVNULL,
        stderr: int | IO[Any] | None = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
    ) -> asyncio.subprocess.Process:
        """Start a child process in a session of its own and return its handle.

        Raises:
            OSError: the program cannot be started.
        """
        ...


class RealSystem:
    """The machine's own clock, entropy and processes."""

    def __init__(self) -> None:
        self._ids = _RisingIds()

    def now(self) -> int:
        return time.time_ns() // 1_000

    def monotonic(self) -> float:
        # CLOCK_BOOTTIME goes on while the machine sleeps; CLOCK_MONOTONIC does not.
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def new_id(self) -> str:
        return self._ids.next(time.time_ns() // 1_000_000)

    def random(self) -> float:
        return random.random()

    def token(self, size_bytes: int = 32) -> str:
        return secrets.token_urlsafe(size_bytes)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def block(self, seconds: float) -> None:
        time.sleep(seconds)

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None = None,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = subprocess.DEVNULL,
        stderr: int | IO[Any] | None = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *argv,
            env=dict(env),
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )


PIPE = subprocess.PIPE
DEVNULL = subprocess.DEVNULL
STDOUT = subprocess.STDOUT


class _RisingIds:
    """UUIDv7 (RFC 9562 §5.7) whose 74 random bits rise within one millisecond."""

    _RANDOM_BITS = 74

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._milliseconds = 0
        self._tail = 0

    def next(self, milliseconds: int) -> str:
        with self._lock:
            if milliseconds > self._milliseconds:
                self._milliseconds = milliseconds
                # The top bit stays clear so that the increments below cannot overflow.
                self._tail = secrets.randbits(self._RANDOM_BITS - 1)
            else:
                self._tail += 1 + secrets.randbits(32)
            return _format_uuid7(self._milliseconds, self._tail)


def _format_uuid7(milliseconds: int, tail: int) -> str:
    high, low = tail >> 62, tail & ((1 << 62) - 1)
    value = (milliseconds << 80) | (7 << 76) | (high << 64) | (2 << 62) | low
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def host_name() -> str:
    """Return this machine's host name."""
    return socket.gethostname()


def boot_id() -> str:
    """Return the kernel's id of this boot, or an empty text where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def process_start(pid: int) -> int | None:
    """Return the start time of `pid` in clock ticks since boot, or None when it is gone.

    A pid alone is reused; a pid with its start time names one process of one boot
    (field 22 of /proc/PID/stat, see proc(5)).
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def own_pid() -> int:
    """Return the id of this process."""
    return os.getpid()
