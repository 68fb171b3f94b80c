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
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

MICROSECONDS_PER_SECOND = 1_000_000


class ProcessIdentity(NamedTuple):
    """What names one process among all of one boot of one machine."""

    host: str
    boot_id: str
    """The kernel's id of the boot; empty where there is none."""
    pid: int
    start: int | None
    """Start time in clock ticks since boot, see `process_start`."""


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

    def identity(self) -> ProcessIdentity:
        """Return what names this process."""
        ...

    def process_start(self, pid: int) -> int | None:
        """Return when a process of this machine started, or None when it is gone."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling coroutine for `seconds`."""
        ...

    def block(self, seconds: float) -> None:
        """Block the calling thread for `seconds`."""
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

    def identity(self) -> ProcessIdentity:
        pid = own_pid()
        return ProcessIdentity(host_name(), boot_id(), pid, process_start(pid))

    def process_start(self, pid: int) -> int | None:
        return process_start(pid)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def block(self, seconds: float) -> None:
        time.sleep(seconds)


Program = subprocess.Popen[bytes]


class Channel(Protocol):
    """One end of a connection between two processes; objects travel whole.

    Both methods raise `EOFError` or `ConnectionError` when the other end is gone.
    """

    def send(self, message: Any, /) -> None: ...

    def recv(self) -> Any: ...

    def close(self) -> None: ...


class Helper:
    """A copy of this process that works for it; see `fork_helper`.

    Attributes:
        connection: leads to the helper.
    """

    def __init__(self, process: Any, connection: Channel) -> None:
        self._process = process
        self.connection = connection

    def end(self) -> None:
        """End the helper, whatever it does."""
        self.connection.close()
        self._process.kill()
        self._process.join()


def fork_helper(work: Callable[[Channel], None]) -> Helper | None:
    """Let a copy of this process do `work`; None when it cannot safely be copied.

    Locks that other threads hold would stay locked in the copy for ever, so a process
    with several threads has no helpers. The copy ends when `work` does, and should end
    when its connection does. Whoever forks has no database open: a copy of a connection
    would belong to both.
    """
    if threading.active_count() > 1:
        return None
    import multiprocessing

    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def begin() -> None:
        ours.close()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        work(theirs)

    process = context.Process(target=begin, daemon=True)
    process.start()
    theirs.close()
    return Helper(process, ours)


def wait_for_helpers(helpers: Sequence[Helper]) -> list[Helper]:
    """Block until some of the helpers have something to say, or are gone; return them."""
    from multiprocessing.connection import wait

    ends: list[Any] = [helper.connection for helper in helpers]
    talking = wait(ends)
    return [helper for helper in helpers if helper.connection in talking]


def usable_cores() -> int:
    """Return on how many cores this process may run."""
    return len(os.sched_getaffinity(0))


def start_program(
    argv: Sequence[str], *, env: Mapping[str, str], pass_fds: Sequence[int]
) -> Program:
    """Start a program that serves this process, in a session of its own.

    Raises:
        OSError: it cannot be started.
    """
    return subprocess.Popen(
        argv,
        env=env,
        pass_fds=tuple(pass_fds),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def ended_within(program: Program, seconds: float) -> bool:
    """Block until a program has ended, at most so long; tell whether it has."""
    try:
        program.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


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
