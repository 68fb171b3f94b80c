"""Clocks that jump and machines that sleep, under engines at work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import pytest
from msgspec.structs import replace

from orchd.config.instants import format_instant
from orchd.executors.port import Deferred, ExecutorAnswer, RunContext, Success
from orchd.interfaces import TaskStatus
from orchd.ledger.port import Look
from orchd.system import MICROSECONDS_PER_SECOND, RealSystem
from support.engines import Harness, ScriptedExecutor, data_of, settings_for, until
from support.machines import SleepingMachine
from support.tampering import connected

DAY_SECONDS = 86_400
DAY = DAY_SECONDS * MICROSECONDS_PER_SECOND
TEN_YEARS_SECONDS = 3_653 * DAY_SECONDS
LEASE_SECONDS = 1.0


class Body:
    """A body that runs until it is stopped, or let go."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, context: RunContext) -> ExecutorAnswer:
        self.begun.set()
        await self.go_on.wait()
        return Success(output="done")


async def within(
    seconds: float, condition: Callable[[], Awaitable[bool]], pause_seconds: float = 0.02
) -> None:
    """Wait until a condition holds that has to be asked for."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(pause_seconds)


async def test_a_limit_of_forty_days_holds_while_the_machine_sleeps(
    sqlite_url: str,
) -> None:
    machine, body = SleepingMachine(), Body()
    harness = await Harness.open(sqlite_url, [ScriptedExecutor(body)], system=machine)
    try:
        limit = 40.0 * DAY_SECONDS
        await harness.submit("a", execute_timeout_seconds=limit, max_attempts=1)
        await body.begun.wait()
        machine.slept_seconds = limit - 60
        await asyncio.sleep(1.2)
        assert (await harness.task("a")).status is TaskStatus.IN_PROGRESS
        machine.slept_seconds = limit
        woke = time.monotonic()
        await harness.settle()
        assert time.monotonic() - woke < 2
        state = await harness.task("a")
        assert (state.status, state.error_class) == (TaskStatus.FAILED, "timeout")
    finally:
        await harness.close()


async def test_a_limit_of_ten_years_is_kept_and_harms_nothing(database_url: str) -> None:
    body = Body()
    harness = await Harness.open(database_url, [ScriptedExecutor(body)])
    try:
        seconds = float(TEN_YEARS_SECONDS)
        await harness.submit("a", execute_timeout_seconds=seconds)
        await body.begun.wait()
        state = await harness.task("a")
        assert state.deadline is not None
        years = (state.deadline - harness.engine.clock.now()) / DAY / 365.25
        assert 9.99 < years < 10.01
        assert len(harness.engine.deadlines) == 1
        body.go_on.set()
        await harness.settle()
        assert (await harness.task("a")).status is TaskStatus.COMPLETED
        assert len(harness.engine.deadlines) == 0
    finally:
        await harness.close()


@pytest.mark.parametrize(
    ("until_instant", "stored"),
    [(2**70, "9999-12-31T23:59:59Z"), (-(2**50), "1970-01-01T00:00:00Z")],
)
async def test_later_may_name_any_time_at_all(
    database_url: str, until_instant: int, stored: str
) -> None:
    answers: list[ExecutorAnswer] = [Deferred(until=until_instant), Success(output="ok")]

    async def body(context: RunContext) -> ExecutorAnswer:
        return answers.pop(0)

    harness = await Harness.open(database_url, [ScriptedExecutor(body)])
    try:
        await harness.submit("a")

        async def is_put_off() -> bool:
            return "released" in await harness.event_types("a")

        await within(10, is_put_off)
        released = data_of((await harness.events("a"))[2])
        assert format_instant(released["until"]) == stored
        if until_instant < 0:
            await harness.settle()
            assert (await harness.task("a")).status is TaskStatus.COMPLETED
    finally:
        await harness.close()


# --- the database's clock ---------------------------------------------------------------


class ShiftedClock:
    """Turns the clock of a harness's database."""

    def __init__(self, harness: Harness) -> None:
        self._now, self._look = harness.ledger.now, harness.ledger.look
        self.shift = 0
        ledger = cast(Any, harness.ledger)
        ledger.now, ledger.look = self.now, self.look

    async def now(self) -> int:
        return await self._now() + self.shift

    async def look(self) -> Look:
        look = await self._look()
        return replace(look, now=look.now + self.shift)


@pytest.mark.parametrize("jump_days", [1, -1])
async def test_a_jump_of_the_databases_clock_is_followed_within_two_seconds(
    sqlite_url: str, jump_days: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Also with a lease that is renewed every twenty minutes."""
    settings = settings_for(sqlite_url, lease_seconds=3_600.0)
    harness = await Harness.open(sqlite_url, [ScriptedExecutor()], settings=settings)
    try:
        clock = ShiftedClock(harness)
        before = harness.engine.clock.now()
        due = before + jump_days * DAY + 2 * MICROSECONDS_PER_SECOND
        if jump_days > 0:
            await harness.submit("waits", run_at=due)
        clock.shift = jump_days * DAY
        await until(
            lambda: (
                abs(harness.engine.clock.now() - before - jump_days * DAY)
                < 5 * MICROSECONDS_PER_SECOND
            ),
            timeout_seconds=2.5,
        )
        await harness.submit("now")
        await harness.submit("soon", run_at=due)
        await harness.settle()
        for task_id in ("now", "soon"):
            assert (await harness.task(task_id)).status is TaskStatus.COMPLETED
        assert "clock jumped by" in caplog.text
    finally:
        await harness.close()


def shift_lease(url: str, worker_id: str, days: int) -> None:
    """Let a worker's lease look as if the database's clock had jumped the other way."""
    shift = days * DAY
    with connected(url) as connection:
        connection.exec_driver_sql(
            f"UPDATE workers SET renewed_at = renewed_at + {shift},"
            f" expires_at = expires_at + {shift} WHERE id = '{worker_id}'"
        )


async def open_pair(
    url: str, body: Body, systems: Sequence[RealSystem | None] = (None, None)
) -> tuple[Harness, Harness]:
    """Return an engine that executes task `a`, and another one that claims nothing."""
    settings = settings_for(url, lease_seconds=LEASE_SECONDS)
    executors = ScriptedExecutor(body), ScriptedExecutor()
    first, second = [
        await Harness.open(url, [executor], settings=settings, system=system)
        for executor, system in zip(executors, systems, strict=True)
    ]
    second.engine.pause_claims()
    await first.submit("a")
    await body.begun.wait()
    return first, second


async def test_a_living_worker_outlives_a_jump_of_the_databases_clock(
    postgres_url: str,
) -> None:
    body = Body()
    first, second = await open_pair(postgres_url, body)
    try:
        await until(lambda: second.engine.lease.held_seconds > 1.5 * LEASE_SECONDS)
        own = first.engine.worker_id
        for _ in range(3):
            shift_lease(postgres_url, own, days=-1)
            await asyncio.sleep(1.5 * LEASE_SECONDS)
        body.go_on.set()
        await first.settle()
        assert first.engine.worker_id == own
        state = await first.task("a")
        assert (state.status, state.runs, state.crashes) == (TaskStatus.COMPLETED, 1, 0)
    finally:
        await first.close()
        await second.close()


async def test_a_dead_worker_is_found_though_the_databases_clock_was_turned_back(
    postgres_url: str,
) -> None:
    first, second = await open_pair(postgres_url, Body())
    try:
        await first.engine.lease.stop()
        shift_lease(postgres_url, first.engine.worker_id, days=1)
        second.engine.resume_claims()

        async def is_taken_over() -> bool:
            return (await second.task("a")).status is TaskStatus.COMPLETED

        await within(4 * LEASE_SECONDS + 5, is_taken_over)
    finally:
        await first.crash()
        await second.close()


async def test_machines_that_slept_together_do_not_fence_each_other(
    postgres_url: str,
) -> None:
    """All leases have run out when they wake up, and whoever looks first sees that."""
    body = Body()
    machines = [SleepingMachine(), SleepingMachine()]
    first, second = await open_pair(postgres_url, body, machines)
    try:
        await until(lambda: second.engine.lease.held_seconds > 1.5 * LEASE_SECONDS)
        owners = first.engine.worker_id, second.engine.worker_id
        for owner in owners:
            shift_lease(postgres_url, owner, days=-1)
        for machine in machines:
            machine.slept_seconds = DAY_SECONDS
        await asyncio.sleep(2 * LEASE_SECONDS)
        body.go_on.set()
        await first.settle()
        assert (first.engine.worker_id, second.engine.worker_id) == owners
        assert (await first.task("a")).runs == 1
    finally:
        await first.close()
        await second.close()
