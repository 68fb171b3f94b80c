"""An event loop without a world: no sockets, no threads, no clock of its own.

Every simulated process has one. Whoever drives it says when a turn is due, and what time
it is; nothing here waits for anything.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

Clock = Callable[[], float]
Complain = Callable[[str, BaseException | None], None]
Watch = Callable[[Any], None]
"""Called after a step with the callback that ran."""

TASKS_KEPT = 64
"""Finished tasks are forgotten whenever this many more have been made."""
NEVER = float("inf")
TURN_STEPS_MAX = 8
"""Steps of one turn, after which other processes have theirs."""


class Handle:
    """A callback that is to run; the loop's own, because asyncio's costs three times as
    much."""

    __slots__ = ("_args", "_context", "callback")

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
    ) -> None:
        self.callback: Callable[..., object] | None = callback
        self._args = args
        self._context = context

    def cancel(self) -> None:
        self.callback = None
        self._args = ()

    def cancelled(self) -> bool:
        return self.callback is None

    def run(self) -> None:
        """Call it; tasks have a context of their own, and nobody else needs one."""
        if self.callback is None:
            return
        if self._context is None:
            self.callback(*self._args)
        else:
            self._context.run(self.callback, *self._args)


class Timer(Handle):
    """A callback that is to run at a time of the loop's clock."""

    __slots__ = ("_when",)

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
    ) -> None:
        super().__init__(callback, args, context)
        self._when = when

    def when(self) -> float:
        return self._when


class VirtualLoop(asyncio.AbstractEventLoop):
    """What asyncio needs of a loop, driven from outside by `turn`.

    Args:
        clock: the monotonic clock of the machine, in seconds.
        complain: told of errors that reached the loop; they are nobody's to handle.
    """

    def __init__(self, clock: Clock, complain: Complain) -> None:
        self.ready: deque[Handle] = deque()
        self.steps = 0
        self.watch: Watch | None = None
        self.pausing = False
        """Set within a step: the turn ends after it."""
        self.closed = False
        self._clock = clock
        self._complain = complain
        self.timers: list[tuple[float, int, Timer]] = []
        self._sequence = 0
        self._tasks: list[asyncio.Task[Any]] = []
        self._prune_at = TASKS_KEPT

    # --- what asyncio asks for --------------------------------------------------------

    def time(self) -> float:
        return self._clock()

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self.closed

    def is_closed(self) -> bool:
        return self.closed

    def call_soon(  # type: ignore[override]  # asyncio's handles are not subclassed
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Handle:
        handle = Handle(callback, args, context)
        if not self.closed:
            self.ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]  # one thread there is

    def call_later(  # type: ignore[override]  # see call_soon
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Timer:
        return self.call_at(self._clock() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]  # see call_soon
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Timer:
        timer = Timer(when, callback, args, context)
        if not self.closed:
            self._sequence += 1
            heapq.heappush(self.timers, (when, self._sequence, timer))
        return timer

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]  # no context is ever given
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name)
        self._tasks.append(task)
        if len(self._tasks) > self._prune_at:
            self._tasks = self.pending()
            self._prune_at = len(self._tasks) + TASKS_KEPT
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        # Whether and when forgotten errors are found is the garbage collector's to say.
        if not self.closed and "never retrieved" not in context["message"]:
            self._complain(context["message"], context.get("exception"))

    # --- what the world does with it --------------------------------------------------

    def pending(self) -> list[asyncio.Task[Any]]:
        """Return the tasks that have not ended, oldest first."""
        return [task for task in self._tasks if not task.done()]

    def next_timer(self) -> float:
        """Return when the next timer is due by the loop's clock."""
        timers = self.timers
        while timers and timers[0][2].callback is None:
            heapq.heappop(timers)
        return timers[0][0] if timers else NEVER

    def ring(self) -> None:
        """Make ready the timer that is due next."""
        self.ready.append(heapq.heappop(self.timers)[2])

    def turn(self) -> None:
        """Run what is ready, and some of what becomes ready by that."""
        ready = self.ready
        self.pausing = False
        asyncio._set_running_loop(self)
        try:
            for _ in range(TURN_STEPS_MAX):
                if not ready or self.pausing:
                    break
                self._step(ready.popleft())
        finally:
            asyncio._set_running_loop(None)

    def _step(self, handle: Handle) -> None:
        callback = handle.callback
        if callback is None:
            return
        self.steps += 1
        try:
            handle.run()
        except (Exception, SystemExit) as error:
            self._complain(f"{callback!r} raised", error)
        if self.watch is not None:
            self.watch(callback)

    def abandon(self) -> None:
        """End like a killed process: nothing that was begun here goes on.

        The coroutines are closed at once, so that the garbage collector finds nothing to
        close at a time of its own choice.
        """
        self.closed = True
        tasks = self.pending()
        self.ready.clear()
        self.timers.clear()
        self._tasks.clear()
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # CPython's
            coroutine = task.get_coro()
            if isinstance(coroutine, Coroutine):
                coroutine.close()
        self.ready.clear()
