"""One reader of the ledger's news for everybody who waits for the log to grow."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from orchd.ledger.port import Ledger, LedgerUnavailable
from orchd.system import System

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


class NewsHub:
    """Wakes every waiter when the log may have grown. Starts with its first waiter."""

    def __init__(self, ledger: Ledger, system: System) -> None:
        self._ledger = ledger
        self._system = system
        self._event = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.closed = False

    def listen(self) -> asyncio.Event:
        """Return an event that is set at the next news, or when the hub is closed.

        Take it *before* looking at the log, so that nothing is missed in between.
        """
        if self._task is None and not self.closed:
            self._task = asyncio.create_task(self._follow(), name="orchd-news")
        return self._event

    async def wait(self, event: asyncio.Event, timeout_seconds: float) -> None:
        """Wait for an event of `listen`, or until the time is over."""
        waiter = asyncio.ensure_future(event.wait())
        sleeper = asyncio.ensure_future(self._system.sleep(timeout_seconds))
        try:
            await asyncio.wait((waiter, sleeper), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
            sleeper.cancel()

    async def close(self) -> None:
        """Wake everybody for the last time; idempotent."""
        self.closed = True
        self._event.set()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _follow(self) -> None:
        while True:
            try:
                async for _ in self._ledger.news():
                    self._wake()
            except LedgerUnavailable as error:
                logger.debug("news of the log wait for the ledger: %s", error)
            except Exception:
                logger.exception("following the log failed and is tried again")
            self._wake()
            await self._system.sleep(RETRY_SECONDS)

    def _wake(self) -> None:
        # Swapped, not cleared: who holds the old event has been woken for good.
        woken, self._event = self._event, asyncio.Event()
        woken.set()
