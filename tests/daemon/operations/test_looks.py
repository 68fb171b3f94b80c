"""Submissions that come together look around together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from orchd.ledger.opening import open_ledger
from orchd.ledger.port import LedgerUnavailable, QueueView
from orchd.ledger.sql import SQLLedger
from orchd.operations import Caller, DirectCommitter, Operations
from orchd.operations.operations import CLOCK_SECONDS
from orchd.system import RealSystem
from support.engines import settings_for

TOGETHER = 50
CALLER = Caller(actor="test")


class Site:
    """Operations on a ledger that counts how often it is looked at."""

    def __init__(self, ledger: SQLLedger, url: str) -> None:
        system = RealSystem()
        self.looks = self.clock_reads = 0
        self.is_away = False
        self._queues = ledger.queues
        self._now = ledger.now
        ledger.queues = self._counted  # type: ignore[method-assign]  # it counts
        ledger.now = self._counted_now  # type: ignore[method-assign]  # it counts
        self.operations = Operations(
            ledger=ledger,
            commit=DirectCommitter(ledger, system),
            settings=settings_for(url),
            system=system,
        )

    async def _counted(self) -> list[QueueView]:
        self.looks += 1
        if self.is_away:
            raise LedgerUnavailable("it is away")
        return await self._queues()

    async def _counted_now(self) -> int:
        self.clock_reads += 1
        return await self._now()

    def submit(self, number: int) -> Any:
        body = {"id": f"t{number}", "description": "work", "executor": "work"}
        return self.operations.submit(body, CALLER)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """Operations on an empty SQLite state."""
    url = f"sqlite:///{tmp_path}/orchd.db"
    ledger = open_ledger(
        url, system=RealSystem(), access="write", create=True, migrate=True
    )
    yield Site(ledger, url)
    await ledger.close()


async def test_submissions_that_come_together_look_once(site: Site) -> None:
    made = await asyncio.gather(*(site.submit(number) for number in range(TOGETHER)))
    assert all(one.created for one in made)
    assert site.looks == 1


async def test_a_look_that_fails_is_made_again(site: Site) -> None:
    site.is_away = True
    submissions = (site.submit(number) for number in range(TOGETHER))
    found = await asyncio.gather(*submissions, return_exceptions=True)
    assert {type(one) for one in found} == {LedgerUnavailable}
    assert site.looks == 1
    site.is_away = False
    assert (await site.submit(0)).created


async def test_who_gives_up_waiting_takes_the_look_from_nobody(site: Site) -> None:
    first = asyncio.create_task(site.submit(0))
    second = asyncio.create_task(site.submit(1))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).created
    assert site.looks == 1


async def test_submissions_that_come_together_ask_for_the_time_once(site: Site) -> None:
    await site.submit(0)
    site.clock_reads = 0
    assert site.operations._synchronised_at is not None
    site.operations._synchronised_at -= 2 * CLOCK_SECONDS
    made = await asyncio.gather(*(site.submit(n) for n in range(1, TOGETHER)))
    assert all(one.created for one in made)
    assert site.clock_reads == 1
