"""The one lifecycle of everything in the engine that runs beside the work."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from orchd.ledger.port import LedgerUnavailable
from orchd.system import System

logger = logging.getLogger(__name__)


class Service:
    """Calls `tick` at an interval, and at once when woken, until it is stopped.

    A tick that finds the ledger unavailable is repeated, at the next interval or sooner;
    any other error is logged and repeated likewise, because a service that dies silently
    is worse than one that complains.
    """

    name = "service"

    def __init__(
        self,
        system: System,
        interval_seconds: float,
        *,
        gap_seconds: float = 0.0,
        retry_seconds: float | None = None,
    ) -> None:
        """Args:
        interval_seconds: longest time between two ticks.
        gap_seconds: shortest time between two ticks, however often it is woken.
        retry_seconds: time to the next tick after one that failed; the interval if None.
        """
        self._system = system
        self._interval_seconds = interval_seconds
        self._gap_seconds = gap_seconds
        self._retry_seconds = interval_seconds if retry_seconds is None else retry_seconds
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.trouble: str | None = None
        """Why the last tick did not find the ledger available; None when it did."""

    async def tick(self) -> None:
        """Do one round of work."""
        raise AssertionError(f"{type(self).__name__} has no tick")

    def start(self) -> None:
        """Begin ticking."""
        self._task = asyncio.create_task(self._loop(), name=f"orchd-{self.name}")

    def wake(self) -> None:
        """Tick without waiting for the interval."""
        self._woken.set()

    async def stop(self) -> None:
        """Stop ticking and wait until the last tick is over; idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _loop(self) -> None:
        while True:
            self._woken.clear()
            begun = self._system.monotonic()
            succeeded = await self._try_to_tick()
            await self._rest(self._interval_seconds if succeeded else self._retry_seconds)
            gap = begun + self._gap_seconds - self._system.monotonic()
            if gap > 0:
                await self._system.sleep(gap)

    async def _try_to_tick(self) -> bool:
        try:
            await self.tick()
        except LedgerUnavailable as unavailable:
            self.trouble = str(unavailable)
            logger.debug("%s waits for the ledger: %s", self.name, unavailable)
            return False
        except Exception:
            logger.exception("%s failed and will try again", self.name)
            return False
        self.trouble = None
        return True

    async def _rest(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        alarm = loop.call_later(seconds, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            alarm.cancel()
