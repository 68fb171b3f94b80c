"""The simulation's ledger does what every ledger must do, so that what the simulation
finds on it holds for the others."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from daemon.ledger.conformance import LedgerConformance
from orchd.ledger.port import Acted, Submitted
from orchd.system import RealSystem
from orchd.tasks.commands import Cancel
from simulation.database import Committed, Database
from simulation.ledger import DirectRoute, SimulatedLedger
from support.ledgers import Hand


class TestSimulatedLedger(LedgerConformance):
    @pytest.fixture
    async def hand(self) -> AsyncIterator[Hand]:
        ledger = SimulatedLedger(Database(RealSystem().now), DirectRoute())
        await ledger.open()
        hand = Hand(ledger)
        await hand.register()

        def tell(commit: object) -> None:
            for news in ledger.listeners:
                news.hint.set()

        ledger.database.on_commit.append(tell)
        yield hand
        await ledger.close()


async def test_who_watches_is_told_only_what_a_repetition_carries_out() -> None:
    """What was refused left nothing in the log, so it is tried again; the rest is not."""
    database = Database(RealSystem().now)
    hand = Hand(SimulatedLedger(database, DirectRoute()))
    cancel = hand.act_request("later", Cancel(now=hand.now()))
    batch = (hand.submission("first"), cancel)
    await hand.commit(*batch, command_id="twice")
    await hand.submit("later")
    seen: list[Committed] = []
    database.on_commit.append(seen.append)
    outcomes = await hand.commit(*batch, command_id="twice")
    assert [type(outcome) for outcome in outcomes] == [Submitted, Acted]
    [told] = seen
    assert (told.requests, told.outcomes) == ([cancel], outcomes[1:])
