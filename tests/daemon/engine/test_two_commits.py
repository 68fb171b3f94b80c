"""What holds while two commits of one worker are under way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest

from orchd.breakers import BreakerState, Position
from orchd.engine.committer import Entry
from orchd.engine.recovery import Recovery
from orchd.executors.port import ExecutorAnswer, RunContext, Success
from orchd.ledger.port import (
    ActOnTask,
    BreakerActed,
    ClaimTasks,
    LedgerUnavailable,
    Outcome,
    Request,
)
from support.engines import Harness, ScriptedExecutor, settings_for, until
from support.eventstores import connected

SLOTS = 8
SLOW_COMMITS = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_sleep(0.03); RETURN NEW; END $$;
CREATE TRIGGER slow BEFORE INSERT ON commits FOR EACH ROW EXECUTE FUNCTION slow()"""


class Site:
    """A worker with few slots whose runs end in waves of half of them."""

    def __init__(self) -> None:
        self.harness: Harness
        self.at_work: list[int] = []
        """At each start of a body, how many runs had not reported."""
        self.slow: frozenset[str] = frozenset()
        """Tasks whose bodies wait until they may end."""
        self.may_end = asyncio.Event()

    async def body(self, context: RunContext) -> ExecutorAnswer:
        runs = self.harness.engine.runs()
        self.at_work.append(sum(not run.ended for run in runs))
        if context.task_id in self.slow:
            await self.may_end.wait()
        return Success(output="done")

    async def fill(self, tasks: int) -> None:
        """Submit tasks while nothing is claimed."""
        engine = self.harness.engine
        engine.pause_claims()
        await until(lambda: engine.committer.idle and not engine._claimer.busy)
        requests = [self.harness.request(str(number)) for number in range(tasks)]
        await engine.requests(requests)


@pytest.fixture
async def site(postgres_url: str) -> AsyncIterator[Site]:
    site = Site()
    settings = settings_for(postgres_url, concurrency=SLOTS, lease_seconds=1.0)
    executor = ScriptedExecutor(site.body)
    site.harness = await Harness.open(postgres_url, [executor], settings=settings)
    site.harness.engine.committer.wave_min = 2
    yield site
    await site.harness.close()


async def test_a_batch_that_is_carried_out_in_parts_frees_no_slot_twice(site: Site) -> None:
    committer, commit = site.harness.engine.committer, site.harness.ledger.commit
    claims, elsewhere = committer._claims, list[int]()
    second_half, go_on = asyncio.Event(), asyncio.Event()

    async def fail_once(requests: Sequence[Request], *, command_id: str) -> list[Outcome]:
        ends = sum(isinstance(request, ActOnTask) for request in requests)
        if ends == SLOTS // 2 and not elsewhere:
            raise RuntimeError("an error nobody foresaw")
        if ends and any(isinstance(request, ClaimTasks) for request in requests):
            second_half.set()
            await go_on.wait()
        return await commit(requests, command_id=command_id)

    def noted(ending: int, under_way: int) -> Sequence[Entry]:
        elsewhere.append(under_way)
        return claims(ending, under_way)

    site.slow = frozenset("4567")
    await site.fill(2 * SLOTS)
    site.harness.ledger.commit = fail_once  # type: ignore[method-assign]  # a fault
    site.harness.engine.resume_claims()
    await asyncio.wait_for(second_half.wait(), 5)
    await until(lambda: site.harness.engine.running == SLOTS - SLOTS // 4)
    committer.set_claim_source(noted)
    submissions = [site.harness.request(f"m{number}") for number in range(2)]
    submitting = asyncio.create_task(site.harness.engine.requests(submissions))
    await until(lambda: bool(elsewhere))
    assert elsewhere[0] == SLOTS // 4
    go_on.set()
    site.may_end.set()
    await submitting
    await site.harness.settle()
    assert len(site.at_work) == 2 * SLOTS + 2
    assert max(site.at_work) <= SLOTS


async def test_nothing_runs_alone_before_the_ends_of_the_others_are_on_disk(
    site: Site,
) -> None:
    claimer = site.harness.engine._claimer
    await site.fill(0)
    claimer._running = lambda: SLOTS
    claimer._alone_waiting = claimer.enabled = True
    claimer.wake()
    assert claimer.claims(SLOTS // 2, SLOTS // 2) == []
    [entry] = claimer.claims(SLOTS, 0)
    assert isinstance(entry.request, ClaimTasks)
    assert entry.request.alone
    claimer._running = lambda: 0
    entry.reply.cancel()


async def test_a_lease_is_renewed_while_one_claim_follows_on_the_other(
    site: Site, postgres_url: str
) -> None:
    with connected(postgres_url) as connection:
        connection.exec_driver_sql(SLOW_COMMITS)
        connection.commit()
    await site.fill(320)
    site.harness.engine.resume_claims()
    ledger, worker, longest = site.harness.ledger, site.harness.engine.worker_id, 0.0
    both = 0
    while len(site.at_work) < 300:
        both += len(site.harness.engine.committer._under_way) == 2
        began = time.perf_counter()
        assert await ledger.renew_worker(worker, 1.0)
        longest = max(longest, time.perf_counter() - began)
        await asyncio.sleep(0.1)
    await site.harness.settle()
    assert longest < 0.5
    assert both > 5, "the commits did not overlap"
    assert site.harness.engine.worker_id == worker


class Claims:
    """Claims of which one is always under way."""

    begun = 7
    answered = 6


async def test_an_answer_to_one_commit_ends_no_trouble_of_the_other(site: Site) -> None:
    committer, commit = site.harness.engine.committer, site.harness.ledger.commit
    is_down = asyncio.Event()
    is_down.set()

    async def lose_first(requests: Sequence[Request], *, command_id: str) -> list[Outcome]:
        if is_down.is_set() and getattr(requests[0], "task_id", "") == "first":
            raise LedgerUnavailable("the first is lost")
        return await commit(requests, command_id=command_id)

    await site.fill(0)
    site.harness.ledger.commit = lose_first  # type: ignore[method-assign]  # a fault
    first = asyncio.create_task(site.harness.submit("first"))
    await until(lambda: committer.trouble is not None)
    others = [site.harness.request(f"o{number}") for number in range(3)]
    await site.harness.engine.requests(others)
    assert committer.trouble == "the first is lost"
    assert committer.unavailable_since is not None
    is_down.clear()
    await first
    await until(lambda: committer.trouble is None)
    await until(lambda: committer.unavailable_since is None)


async def test_a_lost_run_is_found_although_claims_never_pause(site: Site) -> None:
    await site.fill(1)
    state = await site.harness.task("0")
    recovery: Recovery = site.harness.engine._recovery
    claims = Claims()
    recovery._claims = claims
    looks = []
    for claims.begun, claims.answered in ((7, 6), (8, 6), (9, 8), (10, 9)):
        looks.append(recovery._lost_runs([state]))
    # Until claim 7 was answered it may be that one's; then the next look tells.
    assert looks == [[], [], [], [state]]
    assert recovery._lost_runs([]) == []
    assert recovery._lost_runs([state]) == []


async def test_an_older_answer_does_not_hide_a_newer_one(site: Site) -> None:
    breakers = site.harness.engine.breakers
    newer = msgspec.structs.replace(opened_breaker(), version=3)
    breakers._note("work", BreakerActed(state=newer, events=()))
    breakers._note("work", BreakerActed(state=opened_breaker(), events=()))
    assert breakers._states["work"] is newer


def opened_breaker() -> BreakerState:
    return BreakerState(
        name="work",
        version=2,
        position=Position.OPEN,
        failures=1,
        error="down",
        until=None,
        worker=None,
        changed_at=1,
    )
