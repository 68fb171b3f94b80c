"""The simulation's ledger does what every ledger must do, so that what the simulation
finds on it holds for the others."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from daemon.ledger.conformance import LedgerConformance
from orchd.system import RealSystem
from simulation.database import Database
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
