"""A program that runs below a supervisor of its own, and everything that comes of it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

import msgspec

from orchd.processes.fork_server import SIZE_BYTES
from orchd.processes.launching import Supervisor, fork_server
from orchd.processes.leftovers import end_marked
from orchd.processes.marks import inherited_mark
from orchd.processes.table import MARK_VARIABLE, ProcessEntry, descendants_of
from orchd.system import System

logger = logging.getLogger(__name__)

KILL_SECONDS_MAX = 5.0
"""How long to wait after SIGKILL; only a process stuck in the kernel lives longer."""
FULL_SECONDS = 0.01
"""How long to wait when the fork server has too much to start already."""
_TERMINATE = b"T"

T = TypeVar("T")


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A program to start. `argv` is never given to a shell."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    mark: str
    """Names the run, see `orchd.processes.marks`."""

    def packed(self) -> bytes:
        """Return the order as the fork server reads it.

        Raises:
            ValueError: a text holds NUL, which the kernel does not take.
        """
        variables = {**self.env, MARK_VARIABLE: inherited_mark(self.mark)}
        pairs = [f"{name}={value}" for name, value in variables.items()]
        parts = [self.cwd, str(len(self.argv)), *self.argv, *pairs]
        if any("\0" in part for part in parts):
            raise ValueError("an argument or a variable holds NUL")
        body = os.fsencode("\0".join(parts))
        return len(body).to_bytes(SIZE_BYTES, "big") + body


class SupervisedProcess:
    """One program. Whoever makes it has to `stop` it, however it ended."""

    def __init__(self, system: System, order: Order) -> None:
        self._system = system
        self._order = order
        self._loop = asyncio.get_running_loop()
        self._supervisor: Supervisor | None = None
        self._heard = b""
        self._ordered = False
        self._hurry = asyncio.Event()
        self._rest: asyncio.Task[None] | None = None
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._exited: asyncio.Future[int] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self.pid = 0
        """The program's process id, once it has started."""

    @property
    def is_gone(self) -> bool:
        """Whether nothing is left of the program and of all that came of it."""
        return self._gone.done()

    def below(self) -> list[ProcessEntry]:
        """Return what is alive of the program and of all that came of it."""
        return descendants_of(self._supervisor.pid) if self._supervisor else []

    async def start(self, streams: Sequence[int]) -> None:
        """Start the program.

        Args:
            streams: its stdin, stdout and stderr; the caller may close them afterwards.

        Raises:
            OSError, ValueError: it cannot be started.
        """
        order = self._order.packed()
        self._supervisor = await self._take_supervisor()
        channel = self._supervisor.channel
        self._loop.add_reader(channel.fileno(), self._hear, self._supervisor)
        with suppress(BrokenPipeError, ConnectionResetError):
            # A supervisor that has just been killed is noticed by the end of its channel.
            sent = socket.send_fds(channel, [order], list(streams))
            await self._loop.sock_sendall(channel, order[sent:])
        self._ordered = True
        await self._started

    async def _take_supervisor(self) -> Supervisor:
        while True:
            try:
                return fork_server.take(self._order.mark)
            except BlockingIOError:
                await self._system.sleep(FULL_SECONDS)

    async def exit_code(self) -> int:
        """Wait until the program has ended; what it started may go on.

        Returns:
            Its exit code, or the negative number of the signal that ended it.
        """
        await asyncio.wait((self._exited,))
        return self._exited.result()

    async def stop(self, grace_seconds: float) -> None:
        """Send SIGTERM to all that is left, and SIGKILL after the grace."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        if self.is_gone and self._rest is None:
            fork_server.give_back(supervisor)
            return
        # A supervisor that was asked for anything is not used again: what is sent when
        # it has just ended its work would be taken for the beginning of an order.
        if self._ordered and not self.is_gone:
            _terminate(supervisor)
            await self._gone_within(grace_seconds, hasten=True)
        for kill in (_kill, _kill_supervisor):
            if not self.is_gone:
                kill(supervisor)
                await self._gone_within(KILL_SECONDS_MAX)
        if not self.is_gone:
            logger.warning(
                "what process %d of %s left outlives SIGKILL; the kernel is holding it",
                *(self.pid, self._order.mark),
            )
        self._loop.remove_reader(supervisor.channel.fileno())
        supervisor.channel.close()

    def hurry(self) -> None:
        """End the grace of a stop that is under way."""
        self._hurry.set()

    async def _gone_within(self, seconds: float, *, hasten: bool = False) -> None:
        hurry = asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait(
                (self._gone, hurry) if hasten else (self._gone,),
                timeout=seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            hurry.cancel()

    # --- what the supervisor says ---------------------------------------------------------

    def _hear(self, supervisor: Supervisor) -> None:
        try:
            data = supervisor.channel.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, self._heard = (self._heard + data).split(b"\n")
        for line in lines:
            word, _, rest = line.decode(errors="replace").partition(" ")
            self._note(supervisor, word, rest)
        if not data:
            self._rest = asyncio.create_task(self._end_the_rest())
        if not data or self.is_gone:
            self._loop.remove_reader(supervisor.channel.fileno())

    def _note(self, supervisor: Supervisor, word: str, rest: str) -> None:
        if word == "ready":
            supervisor.pid = int(rest)
        elif word == "started":
            self.pid = int(rest)
            _resolve(self._started, None)
        elif word == "failed":
            self._fail(rest)
        elif word == "exited":
            _resolve(self._exited, int(rest))
        elif word == "gone":
            _resolve(self._gone, None)

    def _fail(self, cause: str) -> None:
        if not self._started.done():
            self._started.set_exception(OSError(cause))

    async def _end_the_rest(self) -> None:
        # The supervisor was killed; the fork server has seen to what it left. Unless that
        # was killed too: then there are still the marks.
        logger.warning("the supervisor of %s was killed", self._order.mark)
        await asyncio.to_thread(end_marked, self._system, self._order.mark)
        self._fail("its supervisor was killed while it started")
        _resolve(self._exited, -signal.SIGKILL)
        _resolve(self._gone, None)


def _terminate(supervisor: Supervisor) -> None:
    with suppress(OSError):
        supervisor.channel.send(_TERMINATE)
    _signal(supervisor, signal.SIGCONT)


def _kill(supervisor: Supervisor) -> None:
    # It kills whatever it has as soon as it reads the end.
    with suppress(OSError):
        supervisor.channel.shutdown(socket.SHUT_WR)
    _signal(supervisor, signal.SIGCONT)


def _kill_supervisor(supervisor: Supervisor) -> None:
    # It may be held up itself. The fork server ends what it leaves.
    _signal(supervisor, signal.SIGKILL)


def _signal(supervisor: Supervisor, number: signal.Signals) -> None:
    # Its number is nobody else's before its channel has ended. A program may have frozen
    # it: SIGCONT wakes it up, and is nothing to one that is awake.
    if supervisor.pid:
        with suppress(ProcessLookupError):
            os.kill(supervisor.pid, number)


def _resolve(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)
