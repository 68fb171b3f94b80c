"""Looks, again and again, at what other processes and the passing of time have changed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Protocol

from orchd.engine.breakers import BreakerWatch
from orchd.engine.clock import LedgerClock
from orchd.engine.service import Service
from orchd.ledger.port import Ledger
from orchd.system import MICROSECONDS_PER_SECOND, System

POLL_SECONDS = 2.0
"""Longest time between two claims of a worker with free slots while any task is ready. What
no hint announces is found by it: a task that became ready by another worker's claim, for
example."""
GAP_SECONDS = 0.1
"""A busy process hears of its own commits all the time; it looks this often at most."""


class Watched(Protocol):
    """What the watch needs of the engine."""

    ledger: Ledger
    system: System
    clock: LedgerClock
    breakers: BreakerWatch

    @property
    def worker_id(self) -> str: ...

    @property
    def running(self) -> int: ...

    @property
    def executor_names(self) -> tuple[str, ...]: ...

    def wake(self) -> None: ...

    def stop_task(self, task_id: str) -> None: ...


class LedgerWatch(Service):
    """Wakes the claimer when the log has grown or a timer is due, finds cancellations of
    running tasks, and keeps the breakers' positions and the ledger's clock up to date.

    The ledger's news only bring a tick forward; a lost hint costs one interval.
    """

    name = "watch"

    def __init__(self, engine: Watched, interval_seconds: float) -> None:
        super().__init__(engine.system, interval_seconds, gap_seconds=GAP_SECONDS)
        self._engine = engine
        self._listener: asyncio.Task[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._position = -1
        self._polled = engine.system.monotonic()

    def start(self) -> None:
        """Begin to watch."""
        super().start()
        self._listener = asyncio.create_task(self._listen(), name="orchd-news")

    async def stop(self) -> None:
        """Stop watching; idempotent."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()
            with suppress(asyncio.CancelledError):
                await listener
        self._drop_alarm()
        await super().stop()

    async def _listen(self) -> None:
        async for _ in self._engine.ledger.news():
            self.wake()

    async def tick(self) -> None:
        """Look once."""
        engine = self._engine
        # What is due is due by the database's clock, and that may have jumped.
        look = await engine.clock.look()
        if look.position != self._position:
            await engine.breakers.refresh()
        may_find = await engine.breakers.begin_probes(engine.executor_names)
        now = engine.system.monotonic()
        moved = look.position != self._position
        if moved or now - self._polled >= POLL_SECONDS:
            self._position, self._polled = look.position, now
            may_find |= look.is_any_ready
        if may_find:
            engine.wake()
        if look.next_due is not None:
            # An earlier alarm stays: another worker, whose clock is ahead of this one's, or
            # who cannot execute the task, may have made it ready and taken its timer.
            self.note_due(look.next_due)
        if engine.running:
            for task_id in await engine.ledger.cancel_requests(engine.worker_id):
                engine.stop_task(task_id)

    def note_due(self, due: int) -> None:
        """Wake the claimer at an instant, unless an earlier alarm does it anyway.

        What is due later than the next look is left to that look.
        """
        wait = (due - self._engine.clock.now()) / MICROSECONDS_PER_SECOND
        if wait > self._interval_seconds:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0.0, wait)
        if self._alarm is None or at < self._alarm.when():
            self._drop_alarm()
            self._alarm = loop.call_at(at, self._ring, due)

    def _ring(self, due: int) -> None:
        self._alarm = None
        if due > self._engine.clock.now():
            # The clock was set back a little since; woken now, the claimer finds nothing.
            self.note_due(due)
        else:
            self._engine.wake()

    def _drop_alarm(self) -> None:
        alarm, self._alarm = self._alarm, None
        if alarm is not None:
            alarm.cancel()
