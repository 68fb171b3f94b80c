"""The ledger's clock, reckoned without asking each time."""

from __future__ import annotations

from typing import Any, cast

from orchd.engine.clock import LedgerClock


class Hands:
    """A system and a ledger whose clocks a test turns."""

    def __init__(self) -> None:
        self.local = 100.0
        self.instant = 5_000_000
        self.delay = 0.0

    def now(self) -> int:
        return 0

    def monotonic(self) -> float:
        return self.local


class Ledger:
    def __init__(self, hands: Hands) -> None:
        self._hands = hands

    async def now(self) -> int:
        self._hands.local += self._hands.delay
        return self._hands.instant


def clock_of(hands: Hands) -> LedgerClock:
    return LedgerClock(cast(Any, Ledger(hands)), cast(Any, hands))


async def test_it_tells_the_databases_time() -> None:
    hands = Hands()
    clock = clock_of(hands)
    await clock.synchronise()
    hands.local += 2
    assert clock.now() == 7_000_000


async def test_a_slow_answer_does_not_turn_it_back() -> None:
    hands = Hands()
    clock = clock_of(hands)
    await clock.synchronise()
    before = clock.now()
    hands.delay = 0.1
    await clock.synchronise()
    assert clock.now() >= before


async def test_a_jump_of_the_databases_clock_is_followed() -> None:
    hands = Hands()
    clock = clock_of(hands)
    await clock.synchronise()
    hands.instant += 60_000_000
    await clock.synchronise()
    assert clock.now() == 65_000_000
