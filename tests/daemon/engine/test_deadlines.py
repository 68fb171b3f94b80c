"""Deadlines: never early, at most a second late, whatever the clocks do, and cheap."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from orchd.engine.deadlines import DEAD_ENTRIES_MIN, LOOK_SECONDS_MAX, Deadlines
from orchd.system import MICROSECONDS_PER_SECOND, RealSystem
from support.machines import SleepingMachine
from support.waiting import until

DAY = 86_400.0
TEN_YEARS = 10 * 365.25 * 86_400


class VirtualLoop(asyncio.SelectorEventLoop):
    """Jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def time(self) -> float:
        return self.seconds

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]  # theirs
            self.seconds = max(self.seconds, self._scheduled[0].when())  # type: ignore[attr-defined]  # theirs
        super()._run_once()  # type: ignore[misc]  # it is asyncio's own step


class VirtualSystem(RealSystem):
    """A system whose clock is the virtual loop's, off by whatever the machine slept."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self.loop = loop
        self.slept_seconds = 0.0
        self.turned_seconds = 0.0
        """How far somebody turned the wall clock."""

    def now(self) -> int:
        return round((self.loop.seconds + self.turned_seconds) * MICROSECONDS_PER_SECOND)

    def monotonic(self) -> float:
        return self.loop.seconds + self.slept_seconds


def in_virtual_time(body: Callable[[VirtualSystem], Any]) -> None:
    """Run a coroutine function where time costs nothing."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        runner.run(body(VirtualSystem(loop)))


async def test_a_thousand_deadlines_ring_in_time_and_never_early() -> None:
    system = RealSystem()
    deadlines = Deadlines(system)
    errors: list[float] = []

    def set_one(seconds: float) -> None:
        due = system.monotonic() + seconds
        deadlines.after(seconds, lambda: errors.append(system.monotonic() - due))

    for _ in range(1_000):
        set_one(random.uniform(0.0, 0.5))
    await until(lambda: len(errors) == 1_000)
    assert min(errors) >= 0
    assert max(errors) < 1
    assert len(deadlines) == 0


def test_limits_from_a_moment_to_a_day_ring_at_their_time() -> None:
    spans = [0.0, 0.2, 0.9999, 1.0, 1.5, 60.0, 86_400.0]

    async def body(system: VirtualSystem) -> None:
        deadlines = Deadlines(system)
        late: dict[float, float] = {}

        def note(span: float) -> None:
            late[span] = system.monotonic() - span

        for span in spans:
            deadlines.after(span, partial(note, span))
        while len(deadlines):
            await asyncio.sleep(3600)
        assert list(late) == spans
        assert all(0 <= error <= 0.002 for error in late.values()), late

    in_virtual_time(body)


def test_ten_years_ring_after_ten_years() -> None:
    """The time passes in a long sleep of the machine, so that it need not be looked at."""

    async def body(system: VirtualSystem) -> None:
        deadlines = Deadlines(system)
        rung: list[float] = []
        deadlines.after(TEN_YEARS, lambda: rung.append(system.monotonic()))
        system.slept_seconds = TEN_YEARS - 1.5
        await asyncio.sleep(1.25)
        assert not rung
        await asyncio.sleep(0.5)
        assert TEN_YEARS <= rung[0] < TEN_YEARS + 0.01

    in_virtual_time(body)


async def test_what_came_due_while_the_machine_slept_rings_within_a_second() -> None:
    system = SleepingMachine()
    deadlines = Deadlines(system)
    rung: list[str] = []
    deadlines.after(3_000, lambda: rung.append("in the sleep"))
    deadlines.after(3_600 + 30, lambda: rung.append("later"))
    system.slept_seconds = 3_600
    woke = time.monotonic()
    await until(lambda: rung)
    assert time.monotonic() - woke < LOOK_SECONDS_MAX + 0.5
    assert rung == ["in the sleep"]
    deadlines.close()


async def test_what_was_cancelled_does_not_ring() -> None:
    deadlines = Deadlines(RealSystem())
    rung: list[int] = []
    kept = [deadlines.after(0.02, partial(rung.append, n)) for n in range(10)]
    for deadline in kept[::2]:
        deadline.cancel()
        deadline.cancel()
    await until(lambda: len(rung) == 5)
    assert rung == [1, 3, 5, 7, 9]
    kept[1].cancel()
    assert len(deadlines) == 0


async def test_one_deadline_may_cancel_another_that_is_due_too() -> None:
    deadlines = Deadlines(RealSystem())
    rung: list[str] = []
    second = deadlines.after(0.02, lambda: rung.append("second"))

    def ring_first() -> None:
        rung.append("first")
        second.cancel()

    deadlines.after(0.01, ring_first)
    RealSystem().block(0.03)
    await until(lambda: rung)
    await asyncio.sleep(0.05)
    assert rung == ["first"]


def test_a_wall_clock_that_is_turned_moves_no_deadline() -> None:
    async def body(system: VirtualSystem) -> None:
        deadlines = Deadlines(system)
        for turned in (DAY, -DAY):
            due = system.monotonic() + 10
            rung: list[float] = []
            deadlines.after(10, lambda rung=rung: rung.append(system.monotonic()))  # type: ignore[misc]  # it takes no argument
            await asyncio.sleep(5)
            system.turned_seconds += turned
            await asyncio.sleep(10)
            late = [instant - due for instant in rung]
            assert len(late) == 1, f"turned by {turned} s, rung {len(late)} times"
            assert 0 <= late[0] <= 0.002, f"turned by {turned} s, late by {late[0]} s"

    in_virtual_time(body)


async def test_an_error_in_one_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    deadlines = Deadlines(RealSystem())
    rung: list[int] = []
    deadlines.after(0.0, lambda: rung.append(1 // 0))
    deadlines.after(0.0, lambda: rung.append(1))
    await until(lambda: rung == [1])
    assert "could not be done" in caplog.text


async def test_a_million_short_runs_with_long_limits_leave_nothing_behind() -> None:
    deadlines = Deadlines(RealSystem())
    at_work = [deadlines.after(300, lambda: None) for _ in range(64)]
    for number in range(1_000_000):
        place = number % 64
        at_work[place].cancel()
        at_work[place] = deadlines.after(300, lambda: None)
    assert len(deadlines) == 64
    assert len(deadlines._heap) <= 2 * 64 + DEAD_ENTRIES_MIN
    deadlines.close()


async def test_ten_thousand_limits_take_one_timer_and_next_to_no_time() -> None:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(RealSystem())
    before = time.thread_time()
    kept = [deadlines.after(60 + n / 100, lambda: None) for n in range(10_000)]
    timers = [t for t in loop._scheduled if not t.cancelled()]  # type: ignore[attr-defined]  # asyncio's own list
    assert len(timers) <= 1
    await asyncio.sleep(2.5 * LOOK_SECONDS_MAX)
    for deadline in kept:
        deadline.cancel()
    assert time.thread_time() - before < 1
    assert len(deadlines) == 0


def test_it_does_not_turn_on_the_spot_for_the_last_fraction_of_a_second() -> None:
    async def body(system: VirtualSystem) -> None:
        system.slept_seconds = 1e9
        deadlines = Deadlines(system)
        rung: list[float] = []
        deadlines.after(1e-9, lambda: rung.append(system.loop.seconds))
        await asyncio.sleep(0.1)
        assert 0 < rung[0] < 0.002

    in_virtual_time(body)


async def test_what_was_forgotten_may_still_be_cancelled() -> None:
    deadlines = Deadlines(RealSystem())
    forgotten = deadlines.after(60, lambda: None)
    deadlines.close()
    forgotten.cancel()
    assert len(deadlines) == 0
    deadlines.after(60, lambda: None)
    assert len(deadlines) == 1
    deadlines.close()
