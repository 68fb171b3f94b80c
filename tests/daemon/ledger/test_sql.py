"""The SQL ledger does what every ledger must do, on either database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from daemon.ledger.conformance import LedgerConformance
from orchd.ledger.opening import open_ledger
from orchd.system import RealSystem
from support.ledgers import Hand


class TestSQLLedger(LedgerConformance):
    @pytest.fixture
    async def hand(self, database_url: str) -> AsyncIterator[Hand]:
        ledger = open_ledger(
            database_url, system=RealSystem(), access="write", create=True, migrate=True
        )
        await ledger.open()
        hand = Hand(ledger)
        await hand.register()
        yield hand
        await ledger.close()
