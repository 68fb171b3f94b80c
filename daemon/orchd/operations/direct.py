"""Commits without an engine, for who opens the state while no daemon runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from orchd.ledger.port import Ledger, LedgerUnavailable, Outcome, Request
from orchd.system import System

PAUSES_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0, 1.0, 1.0)
"""Pauses before the repetitions of a commit that the ledger did not answer."""


class DirectCommitter:
    """Hands requests to the ledger, one call at a time; use it as `commit`."""

    def __init__(self, ledger: Ledger, system: System) -> None:
        self._ledger = ledger
        self._system = system
        self._lock = asyncio.Lock()

    async def __call__(self, requests: Sequence[Request]) -> list[Outcome]:
        """Commit and answer in order.

        Raises:
            LedgerUnavailable: the ledger does not answer, also after repetitions.
        """
        command_id = self._system.new_id()
        async with self._lock:
            # The identical command is repeated before anything else is tried, because
            # nobody knows whether the one before was carried out.
            for pause_seconds in PAUSES_SECONDS:
                try:
                    return await self._ledger.commit(requests, command_id=command_id)
                except LedgerUnavailable:
                    await self._system.sleep(pause_seconds)
            return await self._ledger.commit(requests, command_id=command_id)
