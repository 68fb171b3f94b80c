"""Follows a log: every event once, in order, for as long as somebody listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from orchd_eventstore.errors import LogCorrupted, StoreUnavailable
from orchd_eventstore.events import RecordedEvent
from orchd_eventstore.news import News

POLL_SECONDS = 1.0
"""Longest time between two looks at the log, should every hint be lost."""


async def follow(
    read: Callable[[int, int], list[RecordedEvent]],
    news: News,
    *,
    after: int,
    batch: int,
) -> AsyncIterator[list[RecordedEvent]]:
    """Yield batches of events with positions above `after`.

    Nothing is held open between two batches. While the database is unavailable the
    iterator waits and goes on where it was.

    Raises:
        LogCorrupted: a position is missing.
    """
    position = after
    # The wait is the loop's, not a thread's: idle subscribers must not use up the pool.
    with news.watched() as hint:
        while True:
            hint.clear()
            try:
                events = await asyncio.to_thread(read, position, batch)
            except StoreUnavailable:
                events = []
            if events:
                require_dense(position, events)
                position = events[-1].position
                yield events
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await hint.wait()


def require_dense(after: int, events: list[RecordedEvent]) -> None:
    """Raise `LogCorrupted` when the positions do not follow `after` without a hole."""
    for expected, event in enumerate(events, start=after + 1):
        if event.position != expected:
            raise LogCorrupted(
                f"the log has a hole: {expected} is missing before {event.position}"
            )
