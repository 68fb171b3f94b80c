"""What a commit promises: nothing is said before it, and a doubt is settled as it arose."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import cast

import msgspec
import pytest

from orchd.config.settings import QueueSettings
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
from support.engines import Harness, ScriptedExecutor, settings_for, until
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


@pytest.mark.parametrize("works_apart", [True, False])
async def test_runs_go_in_waves_where_the_database_works_apart(
    sqlite_url: str, works_apart: bool
) -> None:
    harness = await Harness.open(
        sqlite_url, [ScriptedExecutor()], settings=settings_for(sqlite_url, concurrency=8)
    )
    harness.ledger.works_apart = works_apart
    harness.engine.committer.wave_runs_min = 2
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
    ends, wave = [ended for ended, _ in shapes], 4 if works_apart else 8
    assert (max(ends), sum(ends)) == (wave, 40)
    # From the second commit on, what has ended in one makes room for as many in it.
    assert shapes.count((wave, wave)) >= 40 // wave - 4
    await harness.close()


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


async def test_a_commit_is_handed_over_when_the_server_has_it(database_url: str) -> None:
    harness = await Harness.open(database_url, [ScriptedExecutor()])
    ledger = cast(SQLLedger, harness.ledger)
    assert ledger.works_apart is not ledger.sole_writer
    assert ledger.works_apart is database_url.startswith("postgresql")
    if ledger.works_apart:
        with connected(database_url) as other:
            other.exec_driver_sql("SELECT * FROM log_head FOR UPDATE")
            submitting = asyncio.create_task(harness.submit("a"))
            await until(lambda: harness.engine.committer.waiting_seconds > 0)
            await until(ledger._handed_over.is_set)
            assert not submitting.done()
        await submitting
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
