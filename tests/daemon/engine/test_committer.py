"""What a commit promises: nothing is said before it, and a doubt is settled as it arose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from orchd.ledger.port import LedgerUnavailable, Outcome, Request
from orchd.queues import serves
from support.engines import Harness, ScriptedExecutor, until


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
    kinds = [[type(request).__name__ for request in sent] for _, sent in courier.sent]
    assert kinds[0] == ["SubmitTask", "ClaimTasks"]
    submitted, started, completed = await harness.ledger.task_events("a")
    assert [submitted.type, started.type] == ["task.submitted", "task.started"]
    assert "ActOnTask" in kinds[1], "an empty claim was sent before the run's end"
    assert completed.type == "task.completed"


async def test_a_submission_for_other_workers_is_one_commit(harness: Harness) -> None:
    courier = Courier(harness)
    courier.may_go.set()
    harness.engine.resume_claims()
    await until(lambda: bool(courier.sent) and harness.engine.committer.idle)
    courier.sent.clear()
    await harness.submit("a", executor="elsewhere")
    kinds = [[type(request).__name__ for request in sent] for _, sent in courier.sent]
    assert kinds == [["SubmitTask"]]


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
