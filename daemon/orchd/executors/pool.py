"""Warm child processes that run a user's Python code and can be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from orchd.config.settings import WorkerSettings
from orchd.executors.wire import Answer, answer_of
from orchd.processes.environment import interpreter_environment
from orchd.processes.frames import pack, read_frame
from orchd.processes.marks import run_mark
from orchd.processes.supervised import Order, SupervisedProcess
from orchd.processes.waiting import see_through
from orchd.system import System, process_start

FAREWELL_SECONDS = 0.5
"""How long an idle child may take to end by itself when it is dismissed."""
LAST_WORDS_SECONDS = 0.2
"""How long an answer may still be on its way after its child has ended."""
_STDERR = 2
"""What the code prints must not end up between the daemon's own lines."""


class CannotLoadTarget(Exception):
    """A child could not load its target."""


class ChildDied(Exception):
    """A child ended before it answered."""


class ChildSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the children of a pool are for and how they are run."""

    name: str
    """The executor or verifier, for marks."""
    target: str
    method: str
    """`execute` or `verify`."""
    arguments: Mapping[str, object]
    env: Mapping[str, str]
    worker: WorkerSettings
    mark: str


class Child:
    """One child process. It belongs to the pool that started it."""

    def __init__(
        self,
        process: SupervisedProcess,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        system: System,
    ) -> None:
        self._process = process
        self._reader, self._writer = streams
        self._system = system
        self._start = process_start(process.pid)
        self._spared: frozenset[tuple[int, int]] = frozenset()
        self.asynchronous = False
        self._watch = asyncio.create_task(self._close_after_its_end())

    @property
    def alive(self) -> bool:
        """Whether the child can be asked."""
        pid = self._process.pid
        return self._start is not None and process_start(pid) == self._start

    async def become_ready(self) -> None:
        """Wait until the target is loaded.

        Raises:
            CannotLoadTarget: it cannot be loaded.
            ChildDied: the child ended instead.
        """
        message = await self._next_message()
        if "cannot_load" in message:
            raise CannotLoadTarget(message["cannot_load"])
        self.asynchronous = message["asynchronous"]
        self._spared = self._company()

    async def ask(self, request: object, heartbeat: Callable[[], None]) -> Answer:
        """Send a request and return the answer.

        Raises:
            ChildDied: the child ended, or talked nonsense.
        """
        self._writer.write(pack(request))
        # A dead child is noticed by the missing answer.
        with suppress(ConnectionError):
            await self._writer.drain()
        while "answer" not in (message := await self._next_message()):
            heartbeat()
        try:
            return answer_of(message["answer"])
        except (KeyError, TypeError, msgspec.ValidationError) as error:
            raise ChildDied(f"its process answered nonsense: {error}") from error

    async def _next_message(self) -> dict[str, Any]:
        try:
            message = await read_frame(self._reader)
        except EOFError:
            raise ChildDied(await self._cause_of_death()) from None
        except ValueError as error:
            raise ChildDied(f"its process talked nonsense: {error}") from error
        if not isinstance(message, dict):
            raise ChildDied("its process talked nonsense")
        return message

    async def _cause_of_death(self) -> str:
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                code = await self._process.exit_code()
        except TimeoutError:
            return "its process closed the connection"
        if code >= 0:
            return f"its process ended with exit code {code}"
        with suppress(ValueError):
            return f"its process was killed by {signal.Signals(-code).name}"
        return f"its process was killed by signal {-code}"

    async def _close_after_its_end(self) -> None:
        # A process that the code forked may hold our connection open for ever.
        await self._process.exit_code()
        await self._system.sleep(LAST_WORDS_SECONDS)
        self._writer.close()

    @property
    def has_company(self) -> bool:
        """Whether the code left processes running that were not there before it ran."""
        return bool(self._company() - self._spared)

    def _company(self) -> frozenset[tuple[int, int]]:
        # Everything below the supervisor but the child: what the child started, and what
        # its supervisor adopted because it was left alone.
        below, own = self._process.below(), self._process.pid
        return frozenset((entry.pid, entry.start) for entry in below if entry.pid != own)

    async def dismiss(self, grace_seconds: float) -> None:
        """Let the idle child end by itself, then stop what is left."""
        self._writer.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                await self._process.exit_code()
        await self.stop(grace_seconds)

    async def stop(self, grace_seconds: float) -> None:
        """Stop the child and everything that it started."""
        await self._process.stop(grace_seconds)
        self._watch.cancel()
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    def hurry(self) -> None:
        """End the grace of a stop that is under way."""
        self._process.hurry()


class ChildPool:
    """Children that are started when needed and stay warm between tasks.

    Each works on one task at a time; there are never more than calls at the same time.
    """

    def __init__(self, settings: ChildSettings, system: System) -> None:
        self._settings = settings
        self._system = system
        self._idle: list[Child] = []
        self._started = 0

    async def asynchronous(self) -> bool:
        """Tell whether the target is a coroutine function; starts a child to find out.

        Raises:
            CannotLoadTarget, ChildDied, OSError: no child can be had.
        """
        child = await self._take()
        self._idle.append(child)
        return child.asynchronous

    async def call(self, request: object, heartbeat: Callable[[], None]) -> Answer:
        """Let a child answer a request.

        Raises:
            CannotLoadTarget, ChildDied, OSError: no child can be had, or it ended.
            asyncio.CancelledError: cancelled; the child has been stopped.
        """
        child = await self._take()
        try:
            answer = await child.ask(request, heartbeat)
        except BaseException:
            await self._see_to_its_end(child)
            raise
        if child.has_company:
            # What the code started belongs to the run that is over; an object that still
            # relies on it is replaced along with it.
            await self._see_to_its_end(child)
        else:
            self._idle.append(child)
        return answer

    async def close(self) -> None:
        """Stop all idle children."""
        idle, self._idle = self._idle, []
        grace = self._settings.worker.kill_grace_seconds
        await asyncio.gather(*(child.dismiss(grace) for child in idle))

    async def _take(self) -> Child:
        while self._idle:
            child = self._idle.pop()
            if child.alive:
                return child
            await self._see_to_its_end(child)
        return await self._start()

    async def _start(self) -> Child:
        self._started += 1
        mark = run_mark(self._settings.mark, self._settings.name, self._started, id(self))
        process = SupervisedProcess(self._system, self._order(mark))
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                await process.start((theirs.fileno(), _STDERR, _STDERR))
            child = Child(process, await asyncio.open_connection(sock=ours), self._system)
        except BaseException:
            ours.close()
            await self._see_to_its_end(process)
            raise
        try:
            await child.become_ready()
        except BaseException:
            await self._see_to_its_end(child)
            raise
        return child

    async def _see_to_its_end(self, started: Child | SupervisedProcess) -> None:
        stopping = started.stop(self._settings.worker.kill_grace_seconds)
        stopped, interruption = await see_through(stopping, started.hurry)
        stopped.result()
        if interruption is not None:
            raise interruption

    def _order(self, mark: str) -> Order:
        return Order(
            argv=self._argv(),
            env=interpreter_environment(os.environ, self._settings.env, {}),
            cwd=os.getcwd(),
            mark=mark,
        )

    def _argv(self) -> list[str]:
        job = {
            "target": self._settings.target,
            "method": self._settings.method,
            "arguments": dict(self._settings.arguments),
            "output_bytes_max": self._settings.worker.max_output_bytes,
        }
        # -P: modules beside the daemon are found last, not first.
        module = ("-P", "-m", "orchd.executors.child")
        return [sys.executable, *module, msgspec.json.encode(job).decode()]
