"""Signs of life for systemd, given by the event loop after a look at the database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from orchd.ledger.port import Ledger, LedgerUnavailable
from orchd.system import System
from orchd_ops.serve.notify import notify, watchdog_seconds

logger = logging.getLogger(__name__)

STATUS_SECONDS = 10.0


class Watchdog:
    """Reports status, and that the loop turns, until it is stopped."""

    def __init__(self, ledger: Ledger, system: System, status: Callable[[], str]) -> None:
        self._ledger = ledger
        self._system = system
        self._status = status
        wanted = watchdog_seconds()
        self._interval_seconds = STATUS_SECONDS if wanted is None else wanted / 3
        self._watched = wanted is not None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to report."""
        self._task = asyncio.create_task(self._loop(), name="orchd-watchdog")

    async def stop(self) -> None:
        """Stop; idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _loop(self) -> None:
        while True:
            if self._watched and await self._database_answers():
                notify("WATCHDOG=1", f"STATUS={self._status()}")
            else:
                notify(f"STATUS={self._status()}")
            await self._system.sleep(self._interval_seconds)

    async def _database_answers(self) -> bool:
        try:
            async with asyncio.timeout(self._interval_seconds):
                await self._ledger.now()
        except LedgerUnavailable:
            # A restart would not bring the database back: the daemon itself is well.
            return True
        except TimeoutError:
            # Only a file can hang for a reason that a restart might mend.
            return not self._ledger.sole_writer
        return True
