"""The SQL ledger does what every ledger must do, on either database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from daemon.ledger.conformance import LedgerConformance
from orchd.ledger.opening import open_ledger
from orchd.ledger.reads import Reads
from orchd.system import RealSystem
from support.ledgers import Hand


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Hand]:
    ledger = open_ledger(
        url, system=RealSystem(), access="write", create=True, migrate=True
    )
    await ledger.open()
    try:
        hand = Hand(ledger)
        await hand.register()
        yield hand
    finally:
        await ledger.close()


async def test_work_is_found_although_it_moves_meanwhile(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Places were looked at one after the other, and a task had moved to an earlier one."""
    async with _opened(database_url) as hand:
        await hand.submit("a")
        loop, rows = asyncio.get_running_loop(), Reads._rows

        def move_after(reads: Reads, text: str, *parameters: Any) -> Any:
            found = rows(reads, text, *parameters)
            asyncio.run_coroutine_threadsafe(hand.claim(), loop).result()
            return found

        monkeypatch.setattr(Reads, "_rows", move_after)
        assert await hand.ledger.has_work(("work",), ("judge",))


class TestSQLLedger(LedgerConformance):
    @pytest.fixture
    async def hand(self, database_url: str) -> AsyncIterator[Hand]:
        async with _opened(database_url) as hand:
            yield hand
