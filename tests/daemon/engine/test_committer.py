"""What a commit promises: nothing is said before it, and a doubt is settled as it arose."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import cast

import msgspec
import pytest

from orchd.config.settings import QueueSettings
from orchd.engine.committer import BATCH_REQUESTS_MAX, WAVE_MIN
from orchd.engine.run import Stop
from orchd.executors.port import ExecutorAnswer, RunContext, Success
from orchd.ledger.port import (
    ActOnTask,
    ClaimTasks,
    LedgerUnavailable,
    Look,
    Outcome,
    Request,
    Submitted,
)
from orchd.ledger.sql import HAND_OVER_SECONDS, LARGE_REQUESTS, SQLLedger
from orchd.queues import serves
from orchd.tasks.commands import RecordResult
from support.engines import (
    Harness,
    ScriptedExecutor,
    ScriptedVerifier,
    settings_for,
    until,
)
from support.eventstores import connected


@pytest.fixture
async def harness(sqlite_url: str) -> AsyncIterator[Harness]:
    """An engine that claims nothing, so that only what is asked for is committed."""
    harness = await Harness.open(sqlite_url, [ScriptedExecutor()])
    harness.engine.pause_claims()
    await until(lambda: harness.engine.committer.idle)
    yield harness
    await harness.close()


class Courier:
    """Stands between an engine and its ledger, and brings answers late or not at all."""

    def __init__(self, harness: Harness) -> None:
        self._commit = harness.ledger.commit
        self.may_go = asyncio.Event()
        self.losses = 0
        """How many answers are still to be lost after their commit."""
        self.sent: list[tuple[str, list[Request]]] = []
        harness.ledger.commit = self.commit  # type: ignore[method-assign]  # a fault

    async def commit(
        self, requests: Sequence[Request], *, command_id: str
    ) -> list[Outcome]:
        self.sent.append((command_id, list(requests)))
        await self.may_go.wait()
        outcomes = await self._commit(requests, command_id=command_id)
        if self.losses:
            self.losses -= 1
            raise LedgerUnavailable("the answer was lost")
        return outcomes

    def kinds(self) -> list[list[str]]:
        """Return the names of the requests in each commit."""
        return [[type(each).__name__ for each in requests] for _, requests in self.sent]


async def test_nothing_is_acknowledged_before_its_commit(harness: Harness) -> None:
    courier = Courier(harness)
    submitting = asyncio.create_task(harness.submit("a"))
    await until(lambda: bool(courier.sent))
    await asyncio.sleep(0.1)
    is_acknowledged = submitting.done()
    courier.may_go.set()
    assert not is_acknowledged, "it was acknowledged while its commit was on its way"
    assert await submitting == await harness.task("a")


async def test_a_batch_without_an_answer_is_repeated_as_it_was(harness: Harness) -> None:
    courier = Courier(harness)
    courier.may_go.set()
    courier.losses = 2
    first = asyncio.create_task(harness.submit("a"))
    await until(lambda: bool(courier.sent))
    second = asyncio.create_task(harness.submit("b"))
    await asyncio.gather(first, second)
    commands = [command_id for command_id, _ in courier.sent]
    assert commands[:3] == commands[:1] * 3, "it was repeated under another command id"
    assert commands[3] != commands[0]
    assert all(requests == courier.sent[0][1] for _, requests in courier.sent[:3])
    assert await harness.event_types("a") == ["submitted"]


async def test_a_stop_waits_for_the_report_that_is_on_its_way(sqlite_url: str) -> None:
    """The result is on disk, and the run says itself that it was stopped."""
    harness = await Harness.open(sqlite_url, [ScriptedExecutor()], [ScriptedVerifier()])
    engine, commit = harness.engine, harness.ledger.commit

    async def stop_meanwhile(
        requests: Sequence[Request], *, command_id: str
    ) -> list[Outcome]:
        if any(isinstance(getattr(r, "command", 0), RecordResult) for r in requests):
            for run in engine.runs():
                engine.stop_run(run, Stop.DRAIN)
            await asyncio.sleep(0.05)
            engine.pause_claims()
        return await commit(requests, command_id=command_id)

    harness.ledger.commit = stop_meanwhile  # type: ignore[method-assign]  # a fault
    await harness.submit("a", verifiers=("judge",))
    await until(lambda: engine.running == 0 and engine.committer.idle)
    types = ["submitted", "started", "executed", "released"]
    assert await harness.event_types("a") == types
    await harness.close()


async def test_what_is_submitted_starts_in_the_commit_that_makes_it_durable(
    harness: Harness,
) -> None:
    courier = Courier(harness)
    courier.may_go.set()
    harness.engine.resume_claims()
    await until(lambda: bool(courier.sent) and harness.engine.committer.idle)
    courier.sent.clear()
    await harness.submit("a")
    await until(lambda: harness.engine.running == 0 and harness.engine.committer.idle)
    assert courier.kinds() == [["SubmitTask", "ClaimTasks"], ["ActOnTask"]]
    events = [event.type for event in await harness.ledger.task_events("a")]
    assert events == ["task.submitted", "task.started", "task.completed"]


async def test_a_submission_for_other_workers_is_one_commit(harness: Harness) -> None:
    courier = Courier(harness)
    courier.may_go.set()
    harness.engine.resume_claims()
    await until(lambda: bool(courier.sent) and harness.engine.committer.idle)
    courier.sent.clear()
    await harness.submit("a", executor="elsewhere")
    assert courier.kinds() == [["SubmitTask"]]


async def test_what_ends_under_a_limit_lets_the_next_start(sqlite_url: str) -> None:
    """The end of a run is heard of here, and not only by a look at the database."""
    settings = settings_for(sqlite_url)
    narrow = {"default": QueueSettings(concurrency=1)}
    harness = await Harness.open(
        sqlite_url,
        [ScriptedExecutor()],
        settings=msgspec.structs.replace(settings, queues=narrow),
    )
    overlook_ready_tasks(harness)
    await asyncio.gather(*(harness.submit(name) for name in "abcdefgh"))
    await harness.settle()
    assert len(await harness.event_types("h")) == 3
    await harness.close()


def overlook_ready_tasks(harness: Harness) -> None:
    """Let no look at the database find that anything is ready."""
    look = harness.ledger.look

    async def overlook() -> Look:
        return msgspec.structs.replace(await look(), is_any_ready=False)

    harness.ledger.look = overlook  # type: ignore[method-assign]  # a fault


async def test_the_end_of_a_run_asks_the_gate_again(sqlite_url: str) -> None:
    may_end, is_open = asyncio.Event(), asyncio.Event()

    async def body(context: RunContext) -> ExecutorAnswer:
        await may_end.wait()
        return Success(output="done")

    harness = await Harness.open(sqlite_url, [executor := ScriptedExecutor(body)])
    overlook_ready_tasks(harness)
    await harness.submit("a")
    await until(lambda: len(executor.calls) == 1)
    harness.engine._claimer._gate = is_open.is_set
    await harness.submit("b")
    await until(lambda: harness.engine.committer.idle and not harness.engine._claimer.busy)
    is_open.set()
    may_end.set()
    await harness.settle()
    assert len(executor.calls) == 2
    await harness.close()


@pytest.mark.parametrize("commits_max", [1, 2])
async def test_runs_go_in_waves_where_two_commits_may_be_under_way(
    sqlite_url: str, commits_max: int
) -> None:
    harness = await Harness.open(
        sqlite_url, [ScriptedExecutor()], settings=settings_for(sqlite_url, concurrency=8)
    )
    harness.ledger.commits_max = commits_max
    harness.engine.committer.wave_min = 2
    harness.engine.pause_claims()
    await asyncio.gather(*(harness.submit(str(number)) for number in range(40)))
    courier = Courier(harness)
    courier.may_go.set()
    harness.engine.resume_claims()
    await harness.settle()
    shapes = [
        (sum(isinstance(each, ActOnTask) for each in sent), claimed_slots(sent))
        for _, sent in courier.sent
    ]
    ends, wave = [ended for ended, _ in shapes], 4 if commits_max > 1 else 8
    assert (max(ends), sum(ends)) == (wave, 40)
    # From the second commit on, what has ended in one makes room for as many in it.
    assert shapes.count((wave, wave)) >= 40 // wave - 4
    await harness.close()


async def test_few_runs_end_in_one_commit(sqlite_url: str) -> None:
    slots = 2 * WAVE_MIN - 1
    settings = settings_for(sqlite_url, concurrency=slots)
    harness = await Harness.open(sqlite_url, [ScriptedExecutor()], settings=settings)
    harness.ledger.commits_max = 2
    harness.engine.pause_claims()
    await asyncio.gather(*(harness.submit(str(number)) for number in range(3 * slots)))
    courier = Courier(harness)
    courier.may_go.set()
    harness.engine.resume_claims()
    await harness.settle()
    ends = [
        sum(isinstance(each, ActOnTask) for each in requests)
        for _, requests in courier.sent
    ]
    assert max(ends) == slots
    await harness.close()


async def test_many_requests_do_not_wait_for_the_commit_under_way(
    postgres_url: str,
) -> None:
    harness = await Harness.open(postgres_url, [])
    harness.engine.pause_claims()
    await until(lambda: harness.engine.committer.idle)
    courier, waiting = Courier(harness), list[asyncio.Task[list[Outcome]]]()
    names, sent = iter(range(1_000)), []
    # One goes at once, few wait to be many, many go beside it, and then nothing more does.
    for added in (1, WAVE_MIN - 1, 1, 3 * WAVE_MIN):
        requests = [harness.request(f"t{next(names)}") for _ in range(added)]
        waiting.append(asyncio.create_task(harness.engine.requests(requests)))
        await asyncio.sleep(0.2)
        sent.append(len(courier.sent))
    assert sent == [1, 1, 2, 2]
    assert harness.engine.committer.waiting_seconds > 0.7, "the older one counts"
    assert [len(requests) for _, requests in courier.sent] == [1, WAVE_MIN]
    courier.may_go.set()
    for outcomes in await asyncio.gather(*waiting):
        assert all(isinstance(each, Submitted) and each.created for each in outcomes)
    await harness.close()


async def test_what_is_asked_for_together_is_one_commit(harness: Harness) -> None:
    courier = Courier(harness)
    sizes = (1, 3 * BATCH_REQUESTS_MAX // 5, 3 * BATCH_REQUESTS_MAX // 5, 1)
    waiting = list[asyncio.Task[list[Outcome]]]()
    for batch, size in enumerate(sizes):
        requests = [harness.request(f"{batch}-{number}") for number in range(size)]
        waiting.append(asyncio.create_task(harness.engine.requests(requests)))
        await until(lambda: bool(courier.sent))
    courier.may_go.set()
    await asyncio.gather(*waiting)
    commits = [
        {request.task_id.split("-")[0] for request in sent if hasattr(request, "task_id")}
        for _, sent in courier.sent
    ]
    assert commits == [{"0"}, {"1", "2"}, {"3"}], "an array is in two commits"


async def test_what_comes_after_the_stop_is_cancelled(harness: Harness) -> None:
    await harness.engine.stop()
    assert harness.engine.offer(harness.request("late")).cancelled()
    assert harness.engine.committer.idle


class Overtaking:
    """Lets the second of two commits that are under way be answered before the first."""

    def __init__(self, harness: Harness) -> None:
        self._commit = harness.ledger.commit
        self._held: asyncio.Event | None = None
        self.overtaken = 0
        harness.ledger.commit = self.commit  # type: ignore[method-assign]  # a fault

    async def commit(
        self, requests: Sequence[Request], *, command_id: str
    ) -> list[Outcome]:
        held, self._held = self._held, None
        if held is not None:
            outcomes = await self._commit(requests, command_id=command_id)
            self.overtaken += 1
            held.set()
            return outcomes
        self._held = mine = asyncio.Event()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await mine.wait()
        if self._held is mine:
            self._held = None
        return await self._commit(requests, command_id=command_id)


async def test_two_claims_under_way_share_the_slots(postgres_url: str) -> None:
    running: list[int] = []

    async def body(context: RunContext) -> ExecutorAnswer:
        running.append(opened.engine.running)
        return Success(output="done")

    settings = settings_for(postgres_url, concurrency=8)
    opened = await Harness.open(postgres_url, [ScriptedExecutor(body)], settings=settings)
    opened.engine.committer.wave_min = 2
    opened.engine.pause_claims()
    await asyncio.gather(*(opened.submit(str(number)) for number in range(60)))
    overtaking = Overtaking(opened)
    opened.engine.resume_claims()
    await opened.settle()
    assert (len(running), max(running)) == (60, 8)
    assert overtaking.overtaken >= 4
    await opened.close()


def claimed_slots(sent: list[Request]) -> int:
    return sum(each.slots for each in sent if isinstance(each, ClaimTasks))


async def test_a_large_commit_that_cannot_be_put_together_does_not_hold_the_loop(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = await Harness.open(postgres_url, [ScriptedExecutor()])
    await harness.submit("first")
    await harness.settle()
    many = [harness.request(f"m{number}") for number in range(3 * LARGE_REQUESTS)]
    writer = cast(SQLLedger, harness.ledger)._writer
    prompt = writer.commit

    def slow(requests: Sequence[Request], command_id: str) -> list[Outcome]:
        time.sleep(1.0)
        return prompt(requests, command_id)

    monkeypatch.setattr(writer, "commit", slow)
    submitting = asyncio.create_task(harness.engine.requests(many))
    longest = await longest_turn(0.7)
    assert not submitting.done()
    assert all(isinstance(each, Submitted) for each in await submitting)
    # It waits for a moment, so that nothing takes turns with the writer.
    assert HAND_OVER_SECONDS * 0.8 < longest < 0.5
    await harness.close()


async def test_the_loop_waits_until_the_server_has_a_large_commit(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchd.ledger.sql.HAND_OVER_SECONDS", 30.0)
    harness = await Harness.open(postgres_url, [ScriptedExecutor()])
    harness.engine.pause_claims()
    await until(lambda: harness.engine.committer.idle)
    batches = [
        [harness.request(f"b{batch}-{number}") for number in range(LARGE_REQUESTS)]
        for batch in range(2)
    ]
    with connected(postgres_url) as other:
        other.exec_driver_sql("SELECT * FROM log_head FOR UPDATE")
        submitting = list[asyncio.Task[list[Outcome]]]()
        for under_way, batch in enumerate(batches, start=1):
            submitting.append(asyncio.create_task(harness.engine.requests(batch)))
            # It was sent, or the loop would stand still until nobody cares any more.
            assert await longest_turn(0.3) < 5.0
            assert len(harness.engine.committer._under_way) == under_way
        assert not any(each.done() for each in submitting)
    for outcomes in await asyncio.gather(*submitting):
        assert all(isinstance(each, Submitted) for each in outcomes)
    await harness.close()


async def test_only_a_ledger_that_works_apart_takes_two_commits(database_url: str) -> None:
    harness = await Harness.open(database_url, [])
    is_postgresql = database_url.startswith("postgresql")
    assert harness.ledger.sole_writer is not is_postgresql
    assert harness.ledger.commits_max == (2 if is_postgresql else 1)
    await harness.close()


async def longest_turn(seconds: float) -> float:
    """Return the longest time between two turns of the loop."""
    loop = asyncio.get_running_loop()
    end, seen, longest = loop.time() + seconds, loop.time(), 0.0
    while seen < end:
        await asyncio.sleep(0.001)
        now = loop.time()
        longest, seen = max(longest, now - seen), now
    return longest


def test_a_worker_serves_the_queues_that_its_patterns_name() -> None:
    for patterns, queue, served in (
        (("*",), "any", True),
        (("a", "b"), "b", True),
        (("a", "b"), "c", False),
        (("eu-*-gpu",), "eu-west-gpu", True),
        (("eu-*-gpu",), "eu-west-cpu", False),
        (("[ab]",), "a", False),
        (("a.*",), "a.b", True),
        (("a.*",), "axb", False),
        ((), "a", False),
    ):
        assert serves(patterns, queue) is served, (patterns, queue)
