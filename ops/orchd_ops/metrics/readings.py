"""How the database stands, read for a scrape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from orchd.breakers import Position
from orchd.ledger.port import Ledger, QueueView

POSITIONS: Mapping[str, int] = {
    Position.CLOSED: 0,
    Position.HALF_OPEN: 1,
    Position.OPEN: 2,
}
"""Position of a breaker -> value of `orchd_breaker_state`."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """How the database stood at one moment."""

    at: int
    """By the database's clock, in microseconds."""
    position: int
    event_counts: Mapping[str, int]
    queues: Sequence[QueueView]
    breakers: Mapping[str, int]
    """Executor -> value of `orchd_breaker_state`."""


async def read(ledger: Ledger) -> Reading:
    """Read the figures.

    Raises:
        LedgerUnavailable: the database does not answer.
    """
    look = await ledger.look()
    return Reading(
        at=look.now,
        position=look.position,
        event_counts=await ledger.event_counts(),
        queues=tuple(await ledger.queues()),
        breakers={
            breaker.name: POSITIONS[breaker.position] for breaker in await ledger.breakers()
        },
    )
