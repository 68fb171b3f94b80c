"""The ledger's clock as this process reckons it."""

from __future__ import annotations

import logging

from orchd.ledger.port import Ledger, Look
from orchd.system import MICROSECONDS_PER_SECOND, System

logger = logging.getLogger(__name__)

JUMP_SECONDS_MIN = 5.0
"""A smaller correction is not worth a word."""


class LedgerClock:
    """Tells the database's time without asking the database each time.

    It remembers how far the database's clock was from a clock of this machine that never
    jumps, and corrects that whenever it hears the time.
    """

    def __init__(self, ledger: Ledger, system: System) -> None:
        self._ledger = ledger
        self._monotonic = system.monotonic
        self._offset = system.now() - self._local()
        self._uncertainty: int | None = None

    def now(self) -> int:
        """Return the ledger's instant in microseconds, to within network delay."""
        return round(self._monotonic() * MICROSECONDS_PER_SECOND) + self._offset

    async def synchronise(self) -> None:
        """Ask the database for the time."""
        asked = self._local()
        self._heard(await self._ledger.now(), asked)

    async def look(self) -> Look:
        """Look at the ledger, and go by the time that it tells."""
        asked = self._local()
        look = await self._ledger.look()
        self._heard(look.now, asked)
        return look

    def _heard(self, instant: int, before: int) -> None:
        after = self._local()
        uncertainty = (after - before) // 2
        offset = instant - before - uncertainty
        # A slow answer says little. It only counts when it contradicts what is known, so
        # that the clock does not waver, and events of one task keep their order.
        known = self._uncertainty
        contradicted = abs(offset - self._offset) > uncertainty
        if known is None or uncertainty < known or contradicted:
            if known is not None:
                _note_jump((offset - self._offset) / MICROSECONDS_PER_SECOND)
            self._offset, self._uncertainty = offset, uncertainty

    def _local(self) -> int:
        return round(self._monotonic() * MICROSECONDS_PER_SECOND)


def _note_jump(seconds: float) -> None:
    if abs(seconds) >= JUMP_SECONDS_MIN:
        logger.warning(
            "the database's clock jumped by %+.1f s; what waits for a time, a backoff or a "
            "cooldown waits by that clock",
            seconds,
        )
