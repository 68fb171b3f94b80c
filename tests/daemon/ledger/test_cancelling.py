"""A call to the ledger can be cancelled, also when it has just been answered."""

from __future__ import annotations

import asyncio
import time

import pytest

from orchd.ledger.opening import open_ledger
from orchd.system import RealSystem

ANSWER_SECONDS = 0.1
TURNS_MAX = 10


async def test_a_read_is_cancelled_in_whatever_turn_of_the_loop(database_url: str) -> None:
    """A service that lost its cancellation would go on for ever, and its daemon with it."""
    ledger = open_ledger(
        database_url, system=RealSystem(), access="write", create=True, migrate=True
    )
    await ledger.open()
    cancelled = 0
    for turns in range(TURNS_MAX):
        reading = asyncio.create_task(ledger.now())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        # The thread has answered by the end of this, and the loop is yet to hear of it.
        time.sleep(ANSWER_SECONDS)  # noqa: ASYNC251
        for _ in range(turns):
            await asyncio.sleep(0)
        if reading.cancel():
            cancelled += 1
            with pytest.raises(asyncio.CancelledError):
                await reading
    await ledger.close()
    assert 0 < cancelled < TURNS_MAX
