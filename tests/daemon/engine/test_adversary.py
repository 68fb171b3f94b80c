"""Races and failures that would strand, lose or double the work of an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from daemon.engine.conftest import Open
from orchd.config.settings import Backoff, BreakerSettings, RetrySettings
from orchd.executors.port import ExecutorAnswer, Failure, RunContext, Success
from orchd.interfaces import TaskStatus
from orchd.ledger.port import ActOnTask, ClaimTasks, Outcome, Request, Submitted
from orchd.tasks.commands import Complete, Recover
from orchd.tasks.failures import ErrorClass
from support.engines import Harness, ScriptedExecutor, settings_for
from support.ledgers import Hand


class Saboteur:
    """Stands before `Ledger.commit` and does what a test says to chosen batches."""

    def __init__(self, harness: Harness) -> None:
        self._commit = harness.ledger.commit
        self.before: Callable[[Sequence[Request]], Awaitable[None]] | None = None
        self.after: Callable[[Sequence[Request]], Awaitable[None]] | None = None
        harness.ledger.commit = self.commit  # type: ignore[method-assign]  # a fault

    async def commit(
        self, requests: Sequence[Request], *, command_id: str
    ) -> list[Outcome]:
        if self.before is not None:
            await self.before(requests)
        outcomes = await self._commit(requests, command_id=command_id)
        if self.after is not None:
            await self.after(requests)
        return outcomes


async def test_a_run_whose_end_could_not_be_committed_is_taken_up_again(
    start: Open, database_url: str
) -> None:
    harness = await start(
        ScriptedExecutor(), settings=settings_for(database_url, lease_seconds=1.0)
    )
    failures = 0

    async def fail_once(requests: Sequence[Request]) -> None:
        nonlocal failures
        ends = [r for r in requests if isinstance(r, ActOnTask)]
        if any(isinstance(r.command, Complete) for r in ends) and failures < 2:
            failures += 1
            raise RuntimeError("an error nobody foresaw")

    Saboteur(harness).before = fail_once
    await harness.submit("a")
    await harness.settle()
    assert (await harness.task("a")).status is TaskStatus.COMPLETED


async def test_tasks_of_a_claim_whose_outcome_was_lost_are_taken_up_again(
    start: Open, database_url: str
) -> None:
    harness = await start(
        ScriptedExecutor(), settings=settings_for(database_url, lease_seconds=1.0)
    )
    lost = 0

    async def lose_once(requests: Sequence[Request]) -> None:
        nonlocal lost
        if any(isinstance(r, ClaimTasks) for r in requests) and not lost:
            held = await harness.ledger.held_by(harness.engine.worker_id, limit=1)
            if held:
                lost += 1
                raise RuntimeError("an error nobody foresaw")

    Saboteur(harness).after = lose_once
    await harness.submit("a")
    await harness.settle()
    state = await harness.task("a")
    assert (state.status, state.runs, lost) == (TaskStatus.COMPLETED, 2, 1)


async def test_a_request_that_breaks_its_commit_breaks_no_other_request(
    start: Open,
) -> None:
    harness = await start(ScriptedExecutor())

    async def refuse_poison(requests: Sequence[Request]) -> None:
        if any(getattr(r, "task_id", "") == "poison" for r in requests):
            raise RuntimeError("an error nobody foresaw")

    Saboteur(harness).before = refuse_poison
    names = ("a", "poison", "b")
    futures = [harness.engine.offer(harness.request(name)) for name in names]
    good, poison, other = await asyncio.gather(*futures, return_exceptions=True)
    assert isinstance(good, Submitted)
    assert isinstance(other, Submitted)
    assert isinstance(poison, RuntimeError)
    await harness.settle()
    assert (await harness.task("b")).status is TaskStatus.COMPLETED


async def test_a_claim_that_arrives_during_the_drain_is_given_back(start: Open) -> None:
    """The run neither starts nor stays in progress, and counts neither way."""
    never = asyncio.Event()

    async def hang(context: RunContext) -> ExecutorAnswer:
        await never.wait()
        return Success(output="")

    executor = ScriptedExecutor(hang)
    harness = await start(executor)
    claimed, release = asyncio.Event(), asyncio.Event()

    async def hold_claim(requests: Sequence[Request]) -> None:
        claims = any(isinstance(r, ClaimTasks) for r in requests)
        if claims and await harness.ledger.held_by(harness.engine.worker_id, limit=1):
            claimed.set()
            await release.wait()

    harness.engine.pause_claims()
    await harness.submit("a")
    Saboteur(harness).after = hold_claim
    harness.engine.resume_claims()
    await claimed.wait()
    draining = asyncio.create_task(harness.engine.drain(0.0))
    await asyncio.sleep(0.05)
    release.set()
    await draining
    state = await harness.task("a")
    assert (state.status, state.attempts, state.crashes) == (TaskStatus.PENDING, 0, 0)
    assert not executor.calls


async def test_a_drain_gives_back_even_what_does_not_let_go(start: Open) -> None:
    """The release is on disk when the drain returns, so that the process may exit."""
    begun, over = asyncio.Event(), asyncio.Event()

    async def stubborn(context: RunContext) -> ExecutorAnswer:
        begun.set()
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                continue
        return Success(output="too late")

    harness = await start(ScriptedExecutor(stubborn))
    await harness.submit("a")
    await begun.wait()
    await harness.engine.drain(0.0)
    state = await harness.task("a")
    over.set()
    assert (state.status, state.attempts) == (TaskStatus.PENDING, 0)
    assert harness.engine.running == 0


async def test_a_probe_takes_one_of_the_slots(start: Open, database_url: str) -> None:
    """A half-open breaker never makes a worker run more than its concurrency."""
    most = running = 0
    down = True

    async def work(context: RunContext) -> ExecutorAnswer:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        if down and context.task_id == "probe":
            return Failure(error="down", error_class=ErrorClass.DEPENDENCY)
        return Success(output="fine")

    retry = RetrySettings(backoff=Backoff(initial_seconds=0.0, jitter=False))
    breaker = BreakerSettings(failures=1, cooldown_seconds=0.3)
    settings = settings_for(database_url, retry=retry, breaker=breaker, concurrency=1)
    first, second = ScriptedExecutor(work), ScriptedExecutor(work, name="other")
    harness = await start(first, second, settings=settings)
    await harness.submit("probe", max_attempts=10)
    while not await harness.ledger.breakers():
        await asyncio.sleep(0.005)
    down = False
    for number in range(150):
        await harness.submit(f"other-{number}", executor="other")
    await harness.settle(30.0)
    assert (await harness.task("probe")).status is TaskStatus.COMPLETED
    assert most == 1


async def test_a_task_that_must_run_alone_can_be_a_breakers_probe(
    start: Open, database_url: str
) -> None:
    """Else a breaker whose only waiting task has crashed too often never closes."""
    down = True

    async def work(context: RunContext) -> ExecutorAnswer:
        if down:
            return Failure(error="down", error_class=ErrorClass.DEPENDENCY)
        return Success(output="fine")

    no_wait = Backoff(initial_seconds=0.0, jitter=False)
    retry = RetrySettings(backoff=no_wait, max_crashes=0)
    breaker = BreakerSettings(failures=1, cooldown_seconds=0.3)
    executor = ScriptedExecutor(work)
    settings = settings_for(database_url, retry=retry, breaker=breaker)
    harness = await start(executor, settings=settings)
    await harness.submit("a", max_attempts=10)
    while not await harness.ledger.breakers():
        await asyncio.sleep(0.005)
    down = False
    await harness.settle()
    assert (await harness.task("a")).status is TaskStatus.COMPLETED


async def test_nothing_starts_beside_a_task_that_runs_alone(
    start: Open, database_url: str
) -> None:
    """Not even what is submitted while it runs."""
    at_work: set[str] = set()
    beside: set[str] = set()

    async def work(context: RunContext) -> ExecutorAnswer:
        at_work.add(context.task_id)
        if "crashed" in at_work:
            beside.update(at_work)
        if context.task_id == "crashed":
            await harness.submit("late")
            await asyncio.sleep(0.3)
        at_work.remove(context.task_id)
        return Success(output="done")

    retry = RetrySettings(backoff=Backoff(initial_seconds=0.0, jitter=False), max_crashes=1)
    harness = await start(
        ScriptedExecutor(work),
        settings=settings_for(database_url, retry=retry),
        start=False,
    )
    hand = Hand(harness.ledger, "another")
    await hand.register()
    await hand.submit("crashed")
    await hand.claim()
    await hand.acted("crashed", Recover(now=hand.now(), worker="another"))
    await hand.submit("bystander")
    await harness.engine.start()
    await harness.settle()
    assert beside == {"crashed"}
    assert (await harness.task("late")).status is TaskStatus.COMPLETED


async def test_a_task_that_must_run_alone_starts_when_its_time_has_come(
    start: Open, database_url: str
) -> None:
    """Nothing else happens meanwhile that would make anybody look for it."""

    async def work(context: RunContext) -> ExecutorAnswer:
        if context.attempt == 1:
            return Failure(error="not yet")
        return Success(output="fine")

    backoff = Backoff(initial_seconds=0.5, jitter=False)
    retry = RetrySettings(backoff=backoff, max_crashes=0)
    settings = settings_for(database_url, retry=retry)
    harness = await start(ScriptedExecutor(work), settings=settings)
    await harness.submit("a")
    async with asyncio.timeout(10):
        while (await harness.task("a")).status is not TaskStatus.COMPLETED:
            await asyncio.sleep(0.01)
