"""Faults that the simulation found, each shown on a real database as it was."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import pytest
from msgspec.structs import replace

from daemon.engine.conftest import Open
from orchd.config.settings import Backoff, RetrySettings
from orchd.engine import engine as engine_module
from orchd.engine import watch
from orchd.engine.run import Stop
from orchd.executors.port import ExecutorAnswer, RunContext, Success
from orchd.interfaces import TaskStatus
from orchd.ledger.port import (
    Claimed,
    ClaimedTask,
    LedgerUnavailable,
    Outcome,
    Refusal,
    WorkerView,
)
from support.engines import (
    Harness,
    ScriptedExecutor,
    ScriptedVerifier,
    StubbornVerdict,
    records_result,
    settings_for,
    until,
)
from support.ledgers import Hand

NEVER_SECONDS = 3600.0


@pytest.fixture
def no_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be found that is found by looking again only."""
    monkeypatch.setattr(watch, "POLL_SECONDS", NEVER_SECONDS)


async def other_worker(harness: Harness) -> Hand:
    """Return the hand of another worker, who can execute nothing."""
    # Who has a SQLite file alone takes any other worker of it for dead.
    await harness.engine._recovery.stop()
    hand = Hand(harness.ledger, "other")
    await hand.register()
    return hand


async def is_promoted(harness: Harness) -> bool:
    """Tell whether the only timer has been taken from the timers."""
    return (await harness.ledger.look()).next_due is None


# --- claims ---------------------------------------------------------------------------


async def test_a_task_that_must_run_alone_needs_nothing_else_to_happen(
    start: Open, database_url: str, no_poll: None
) -> None:
    """The claim that found it was not followed by the claim that takes it."""
    retry = RetrySettings(backoff=Backoff(initial_seconds=0.0, jitter=False), max_crashes=0)
    harness = await start(
        ScriptedExecutor(), settings=settings_for(database_url, retry=retry)
    )
    await harness.submit("a", run_at=harness.engine.clock.now() + 1_500_000)
    await harness.settle()
    assert (await harness.task("a")).status is TaskStatus.COMPLETED


async def test_an_alarm_outlives_a_claim_of_somebody_who_cannot_execute_the_task(
    start: Open, no_poll: None
) -> None:
    """Such a claim takes the task from the timers, and left nobody to wake up for it."""
    harness = await start(ScriptedExecutor())
    hand = await other_worker(harness)
    due = harness.engine.clock.now() + 900_000
    await harness.submit("a", run_at=due)
    await harness.engine._watch.tick()
    assert await hand.claim(executors=(), verifiers=(), now=due) == []
    assert await is_promoted(harness)
    await harness.engine._watch.tick()
    await harness.settle()
    assert (await harness.task("a")).status is TaskStatus.COMPLETED


async def test_an_alarm_that_rings_early_by_a_clock_that_was_corrected_rings_again(
    start: Open, no_poll: None
) -> None:
    """It was given up, and what had no timer any more waited for the next poll."""
    harness = await start(ScriptedExecutor())
    hand, clock = await other_worker(harness), harness.engine.clock
    due = clock.now() + 900_000
    await harness.submit("a", run_at=due)
    await harness.engine._watch.tick()
    assert await hand.claim(executors=(), verifiers=(), now=due) == []
    assert await is_promoted(harness)
    await harness.engine._watch.stop()
    harness.engine._watch.note_due(due)
    clock._offset -= 300_000
    await harness.settle()
    assert (await harness.task("a")).status is TaskStatus.COMPLETED


async def test_a_task_that_another_clock_made_ready_too_early_is_found(
    start: Open,
) -> None:
    """Its time had not come by this worker's clock, and no timer told of it any more."""
    harness = await start(ScriptedExecutor(), start=False)
    hand = await other_worker(harness)
    due = hand.now() + 1_000_000
    await hand.submit("a", run_at=due)
    assert await hand.claim(executors=(), verifiers=(), now=due) == []
    await harness.engine.start()
    await harness.settle()
    assert (await harness.task("a")).status is TaskStatus.COMPLETED


# --- runs that are stopped ------------------------------------------------------------


async def swallow(context: RunContext) -> ExecutorAnswer:
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    return Success(output="just in time")


async def test_a_result_that_comes_with_the_time_limit_counts(start: Open) -> None:
    """A body that answered in spite of its stop was released as if by a drain."""
    executor = ScriptedExecutor(swallow)
    harness = await start(executor, verifiers=[ScriptedVerifier()])
    await harness.submit("a", verifiers=("judge",), execute_timeout_seconds=0.1)
    await harness.settle()
    assert await harness.event_types("a") == [
        "submitted",
        "started",
        "executed",
        "verified",
        "completed",
    ]
    assert (await harness.task("a")).result == "just in time"


async def test_a_run_whose_commit_is_on_its_way_is_not_left_behind(
    start: Open, database_url: str
) -> None:
    """Two reports raced each other, and the run had no end at all."""
    harness = await start(
        ScriptedExecutor(swallow),
        verifiers=[ScriptedVerifier()],
        settings=settings_for(database_url, kill_grace_seconds=0.0),
    )
    commit = harness.ledger.commit
    held = asyncio.Event()

    async def hold_result(requests: Any, *, command_id: str) -> list[Outcome]:
        if any(records_result(request) for request in requests) and not held.is_set():
            held.set()
            # Meanwhile the moment passes at which bodies are left behind.
            await asyncio.sleep(1.2)
        return await commit(requests, command_id=command_id)

    harness.ledger.commit = hold_result  # type: ignore[method-assign]  # a fault
    await harness.submit("a", verifiers=("judge",), execute_timeout_seconds=0.1)
    await harness.settle()
    assert held.is_set()
    assert await harness.event_types("a") == [
        "submitted",
        "started",
        "executed",
        "verified",
        "completed",
    ]


async def test_a_run_that_was_left_behind_keeps_its_slot_until_the_log_has_its_end(
    start: Open, database_url: str
) -> None:
    """It was counted as ended twice, so a task that must run alone began beside another."""
    let_go, done, answers = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work(context: RunContext) -> ExecutorAnswer:
        while context.task_id == "stubborn" and not let_go.is_set():
            with suppress(asyncio.CancelledError):
                await let_go.wait()
        if context.task_id == "beside":
            await done.wait()
        return Success(output="")

    settings = settings_for(database_url, kill_grace_seconds=0.0)
    executor = ScriptedExecutor(work)
    harness = await start(executor, settings=settings)
    engine, commit = harness.engine, harness.ledger.commit

    async def hold(requests: Any, *, command_id: str) -> list[Outcome]:
        await answers.wait()
        return await commit(requests, command_id=command_id)

    await harness.submit("beside")
    await harness.submit("stubborn", execute_timeout_seconds=0.1, max_attempts=1)
    await until(lambda: len(executor.calls) == 2)
    [stubborn] = [run for run in engine.runs() if run.context.task_id == "stubborn"]
    # From here on every task must run alone.
    engine.settings = replace(settings, retry=replace(settings.retry, max_crashes=0))
    await harness.submit("alone")
    await until(lambda: engine._claimer._alone_waiting)
    harness.ledger.commit = hold  # type: ignore[method-assign]  # a fault
    engine.offer(harness.request("later"))
    await until(lambda: stubborn.ended)
    let_go.set()
    await until(lambda: stubborn.task is not None and stubborn.task.done())
    answers.set()
    while (await harness.task("stubborn")).status is not TaskStatus.FAILED:
        await asyncio.sleep(0.01)
    assert await harness.event_types("alone") == ["submitted"]
    done.set()
    await harness.settle()
    assert (await harness.task("alone")).status is TaskStatus.COMPLETED


async def test_a_body_that_lets_go_at_the_last_moment_is_not_left_behind(
    start: Open, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It let go between the decision and its execution, and was released all the same."""
    monkeypatch.setattr(engine_module, "LEFT_BEHIND_SECONDS", 0.05)
    let_go = asyncio.Event()

    async def work(context: RunContext) -> ExecutorAnswer:
        while not let_go.is_set():
            with suppress(asyncio.CancelledError):
                await let_go.wait()
        return Success(output="")

    settings = settings_for(database_url, kill_grace_seconds=0.0)
    executor = ScriptedExecutor(work)
    harness = await start(executor, verifiers=[ScriptedVerifier()], settings=settings)
    await harness.submit("a", verifiers=("judge",))
    await until(lambda: bool(executor.calls))
    [run] = harness.engine.runs()
    # Both fall due while the loop stands still, and follow one another when it goes on.
    asyncio.get_running_loop().call_later(0.05, let_go.set)
    harness.engine.stop_run(run, Stop.TIMEOUT)
    time.sleep(0.1)  # noqa: ASYNC251  # a stall
    await harness.settle()
    events = await harness.event_types("a")
    assert events == ["submitted", "started", "executed", "verified", "completed"]


@pytest.mark.parametrize(
    ("error", "end"), [(None, "retried"), (asyncio.CancelledError(), "released")]
)
async def test_a_run_whose_result_is_rejected_ends_once_although_its_end_is_on_its_way(
    start: Open, database_url: str, error: BaseException | None, end: str
) -> None:
    """One that rested on the result was refused too, so the run had none at all; one that
    stood without it was reported again."""
    verdict, answers = StubbornVerdict(error), asyncio.Event()
    judge = ScriptedVerifier([verdict], inline=True)
    settings = settings_for(database_url, kill_grace_seconds=0.0)
    harness = await start(ScriptedExecutor(), verifiers=[judge], settings=settings)
    commit = harness.ledger.commit
    asked = asyncio.Event()

    async def reject(requests: Any, *, command_id: str) -> list[Outcome]:
        if asked.is_set() or not any(map(records_result, requests)):
            return await commit(requests, command_id=command_id)
        asked.set()
        await answers.wait()
        assert len(requests) == 1, "nothing but the result is reported here"
        return [Refusal(code="rejected", detail="not storable")]

    harness.ledger.commit = reject  # type: ignore[method-assign]  # a fault
    await harness.submit("a", verifiers=("judge",))
    await until(lambda: bool(judge.calls))
    [run] = harness.engine.runs()
    drain = asyncio.create_task(harness.engine.drain(0.0))
    await until(asked.is_set)
    verdict.released.set()
    await until(lambda: run.ended)
    answers.set()
    await drain
    harness.engine.resume_claims()
    await harness.settle()
    assert await harness.event_types("a") == [
        *("submitted", "started", end),
        *("started", "completed"),
    ]


# --- leases ---------------------------------------------------------------------------


async def test_a_fenced_worker_does_not_come_back_by_reloading(start: Open) -> None:
    """Its row was gone already, and what it can do was written as a new row."""
    harness = await start(ScriptedExecutor())
    engine = harness.engine
    await engine.lease.stop()
    assert await harness.ledger.fence_worker(engine.worker_id, only_if_expired=False)
    await harness.ledger.retire_worker(engine.worker_id)
    await engine.swap_settings(engine.settings, {"work": ScriptedExecutor()}, {})
    assert await harness.ledger.workers() == []


async def test_a_stop_waits_for_the_lease_that_is_being_taken(start: Open) -> None:
    """Its row was written when the daemon had given its lease back and was gone."""
    harness = await start(ScriptedExecutor())
    engine, register = harness.engine, harness.ledger.register_worker
    asked = asyncio.Event()

    async def late(worker: WorkerView, lease_seconds: float) -> None:
        asked.set()
        await asyncio.sleep(0.3)
        await register(worker, lease_seconds)

    async def in_a_thread(worker: WorkerView, lease_seconds: float) -> None:
        # Whoever gives up waiting does not keep it from happening.
        await asyncio.shield(asyncio.create_task(late(worker, lease_seconds)))

    harness.ledger.register_worker = in_a_thread  # type: ignore[method-assign]  # a fault
    assert await harness.ledger.fence_worker(engine.worker_id, only_if_expired=False)
    engine.lease.wake()
    await asked.wait()
    await engine.stop()
    await asyncio.sleep(0.5)
    assert engine.worker_id not in {worker.id for worker in await harness.ledger.workers()}


async def test_a_renewal_that_failed_is_not_left_to_the_next_one(
    start: Open, database_url: str
) -> None:
    """Two short outages, each at the moment of a renewal, were enough to lose a lease."""
    harness = await start(
        ScriptedExecutor(), settings=settings_for(database_url, lease_seconds=12.0)
    )
    renew, asked = harness.ledger.renew_worker, 0

    async def fail_twice(worker_id: str, lease_seconds: float) -> bool:
        nonlocal asked
        asked += 1
        if asked <= 2:
            raise LedgerUnavailable("short outage")
        return await renew(worker_id, lease_seconds)

    harness.ledger.renew_worker = fail_twice  # type: ignore[method-assign]  # a fault
    harness.engine.lease.wake()
    # Two renewals at their own pace are eight seconds apart.
    await until(lambda: asked == 3, timeout_seconds=4.0)


class Endless:
    """A body that ends only when it is stopped."""

    def __init__(self) -> None:
        self.stopped = asyncio.Event()

    async def __call__(self, context: RunContext) -> ExecutorAnswer:
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped.set()
        return Success(output="")


def hold_renewals(harness: Harness) -> asyncio.Event:
    """Let renewals of the lease hang until the event is set."""
    answer, renew = asyncio.Event(), harness.ledger.renew_worker

    async def hang_first(worker_id: str, lease_seconds: float) -> bool:
        await answer.wait()
        return await renew(worker_id, lease_seconds)

    harness.ledger.renew_worker = hang_first  # type: ignore[method-assign]  # a fault
    return answer


async def test_an_exclusive_run_stops_while_the_renewal_hangs(
    start: Open, database_url: str
) -> None:
    """The end of the lease was found by renewals that failed, not by one that hung."""
    body = Endless()
    executor = ScriptedExecutor(body, exclusive=True)
    settings = settings_for(database_url, lease_seconds=1.0)
    harness = await start(executor, settings=settings)
    await harness.submit("a")
    await until(lambda: bool(executor.calls))
    answer = hold_renewals(harness)
    try:
        async with asyncio.timeout(5):
            await body.stopped.wait()
    finally:
        answer.set()


async def test_an_exclusive_run_stops_although_its_executor_is_configured_no_more(
    start: Open,
) -> None:
    """Whether it was exclusive was looked up by name, and a reload had removed the name."""
    body = Endless()
    executor = ScriptedExecutor(body, exclusive=True)
    harness = await start(executor)
    engine = harness.engine
    await harness.submit("a")
    await until(lambda: bool(executor.calls))
    await engine.swap_settings(engine.settings, {}, {})
    assert await harness.ledger.fence_worker(engine.worker_id, only_if_expired=False)
    await engine.lease.tick()
    async with asyncio.timeout(5):
        await body.stopped.wait()


async def test_nothing_exclusive_starts_without_a_lease(
    start: Open, database_url: str
) -> None:
    """It was claimed and executed with a lease that had run out, which nobody noticed."""
    exclusive = ScriptedExecutor(name="exclusive", exclusive=True)
    other = ScriptedExecutor()
    settings = settings_for(database_url, lease_seconds=1.0)
    harness = await start(exclusive, other, settings=settings)
    answer = hold_renewals(harness)
    await until(lambda: not harness.engine.lease.is_current)
    await harness.submit("a", executor="exclusive")
    await harness.submit("b")
    await until(lambda: bool(other.calls))
    assert not exclusive.calls
    answer.set()
    await harness.settle()
    assert len(exclusive.calls) == 1


async def test_nothing_exclusive_begins_after_a_sleep_that_outlasted_the_lease(
    start: Open, database_url: str
) -> None:
    """The lease was looked at when the claim was answered, and the body began later."""
    executor = ScriptedExecutor(exclusive=True)
    harness = await start(executor, settings=settings_for(database_url, lease_seconds=60))
    engine = harness.engine
    begin = engine._begin

    def sleep_after(claimed: ClaimedTask) -> None:
        begin(claimed)
        engine.lease._renewed -= 60.0

    engine._claimer._received = sleep_after
    await harness.submit("a")
    await until(lambda: not engine.lease.is_current and engine.running == 0)
    assert not executor.calls
    assert await harness.event_types("a") == ["submitted", "started", "released"]


async def test_claims_leave_out_what_is_exclusive_while_there_is_no_lease(
    start: Open, database_url: str
) -> None:
    """A claim that crossed the end of the lease gives the task back unexecuted."""
    executor = ScriptedExecutor(exclusive=True)
    settings = settings_for(database_url, lease_seconds=1.0)
    harness = await start(executor, settings=settings)
    commit = harness.ledger.commit

    async def slowly(requests: Any, *, command_id: str) -> list[Outcome]:
        outcomes = await commit(requests, command_id=command_id)
        if any(isinstance(o, Claimed) and o.tasks for o in outcomes):
            # While the answer was on its way the lease ran out.
            harness.engine.lease._renewed -= 1.0
        return outcomes

    harness.ledger.commit = slowly  # type: ignore[method-assign]  # a fault
    await harness.submit("a")
    await until(lambda: harness.engine.running == 0 and _released(harness))
    harness.ledger.commit = commit  # type: ignore[method-assign]  # the fault is over
    await harness.settle()
    events = await harness.event_types("a")
    assert events[:3] == ["submitted", "started", "released"]
    assert (await harness.task("a")).attempts == 1


async def test_what_a_fenced_worker_claimed_is_not_executed_by_its_successor(
    start: Open,
) -> None:
    """The claim's answer came when the process had begun anew as another worker."""
    executor = ScriptedExecutor(exclusive=True)
    harness = await start(executor)
    commit, fenced = harness.ledger.commit, harness.engine.worker_id

    async def slowly(requests: Any, *, command_id: str) -> list[Outcome]:
        outcomes = await commit(requests, command_id=command_id)
        claimed = any(isinstance(o, Claimed) and o.tasks for o in outcomes)
        if claimed and harness.engine.worker_id == fenced:
            await harness.ledger.fence_worker(fenced, only_if_expired=False)
            await harness.engine.lease.tick()
        return outcomes

    harness.ledger.commit = slowly  # type: ignore[method-assign]  # a fault
    await harness.submit("a")
    await harness.settle()
    assert harness.engine.worker_id != fenced
    assert (await harness.task("a")).status is TaskStatus.COMPLETED
    [call] = executor.calls
    assert call.token > 2


async def test_a_lease_that_ran_out_unheard_is_not_held(start: Open) -> None:
    """A machine that has just woken up fenced others, before it had renewed its own."""
    lease = (await start(ScriptedExecutor())).engine.lease
    lease._held_since -= NEVER_SECONDS
    assert lease.held_seconds >= NEVER_SECONDS
    lease._renewed -= NEVER_SECONDS
    assert lease.held_seconds == 0.0


async def test_a_lease_that_could_not_be_renewed_for_a_while_is_held_anew(
    start: Open,
) -> None:
    """The database took no writes, and the lease of somebody who had renewed a little
    earlier ran out; it was declared dead by one whose own lease had not."""
    lease = (await start(ScriptedExecutor())).engine.lease
    lease._held_since -= NEVER_SECONDS
    lease._renewed -= 0.6 * lease._lease_seconds
    assert lease.is_current
    assert lease.held_seconds == 0.0
    await lease.tick()
    assert 0.0 <= lease.held_seconds < NEVER_SECONDS


def _released(harness: Harness) -> bool:
    return not harness.engine.lease.is_current
