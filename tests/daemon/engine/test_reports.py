"""What came of a run's reports is heard in the order in which they were made."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest

from daemon.engine.conftest import Open
from orchd.engine.report import ProgressReport
from orchd.ledger.port import ActOnTask, LedgerUnavailable, Outcome, Refusal
from support.engines import (
    Harness,
    ScriptedExecutor,
    ScriptedVerifier,
    StubbornVerdict,
    records_result,
    settings_for,
    until,
)

BUSY_REQUESTS = 40
"""Enough to have every commit under way that the ledger takes."""


class Held:
    """A ledger whose commits wait, and which does not store the results of runs."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.is_holding = False
        self.go_on = asyncio.Event()
        self._commit = harness.ledger.commit
        harness.ledger.commit = self._reject_results  # type: ignore[method-assign]  # a fault

    async def _reject_results(self, requests: Any, *, command_id: str) -> list[Outcome]:
        if self.is_holding:
            await self.go_on.wait()
        kept = [request for request in requests if not records_result(request)]
        answers = iter(await self._commit(kept, command_id=command_id) if kept else ())
        return [
            Refusal(code="rejected", detail="not storable")
            if records_result(request)
            else next(answers)
            for request in requests
        ]

    async def keep_busy(self) -> None:
        """Have all commits under way."""
        self.is_holding = True
        engine, harness = self.harness.engine, self.harness
        for commit in range(harness.ledger.commits_max):
            for number in range(BUSY_REQUESTS):
                name = f"other{commit}-{number}"
                engine.offer(harness.request(name, executor="nobody"))
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("error", "end"), [(None, "retried"), (asyncio.CancelledError(), "released")]
)
async def test_an_end_follows_the_progress_that_is_on_its_way(
    start: Open, database_url: str, error: BaseException | None, end: str
) -> None:
    verdict = StubbornVerdict(error)
    judge = ScriptedVerifier([verdict], inline=True)
    settings = settings_for(database_url, kill_grace_seconds=0.0)
    harness = await start(ScriptedExecutor(), verifiers=[judge], settings=settings)
    engine, held = harness.engine, Held(harness)
    await harness.submit("a", verifiers=("judge",))
    await until(lambda: bool(judge.calls))
    [run] = engine.runs()
    await held.keep_busy()
    drain = asyncio.create_task(engine.drain(0.0))
    pending = engine.committer._pending
    await until(lambda: any(records_result(entry.request) for entry in pending))
    verdict.released.set()
    await until(lambda: run.ended)
    assert len(pending) == 1, "the end waits until the result is on disk"
    held.go_on.set()
    await drain
    await until(lambda: not engine.running)
    assert await harness.event_types("a") == ["submitted", "started", end]
    engine.resume_claims()
    await harness.settle()
    assert await harness.event_types("a") == [
        *("submitted", "started", end),
        *("started", "completed"),
    ]


async def test_an_end_does_not_overtake_the_result_in_another_commit(
    start: Open, database_url: str
) -> None:
    verdict, go_on = StubbornVerdict(asyncio.CancelledError()), asyncio.Event()
    judge = ScriptedVerifier([verdict], inline=True)
    settings = settings_for(database_url, kill_grace_seconds=0.0)
    harness = await start(ScriptedExecutor(), verifiers=[judge], settings=settings)
    engine, commit, asked = harness.engine, harness.ledger.commit, asyncio.Event()
    engine.committer.wave_min = 1

    async def hold_results(requests: Any, *, command_id: str) -> list[Outcome]:
        if any(map(records_result, requests)):
            asked.set()
            await go_on.wait()
        return await commit(requests, command_id=command_id)

    harness.ledger.commit = hold_results  # type: ignore[method-assign]  # a fault
    await harness.submit("a", verifiers=("judge",))
    await until(lambda: bool(judge.calls))
    [run] = engine.runs()
    drain = asyncio.create_task(engine.drain(0.0))
    await until(asked.is_set)
    verdict.released.set()
    await until(lambda: run.ended)
    await asyncio.sleep(0.2)
    assert await harness.event_types("a") == ["submitted", "started"]
    go_on.set()
    await drain
    # The drain does not wait for ever, and most of its time is over.
    await until(lambda: not engine.running)
    assert await harness.event_types("a") == [
        *("submitted", "started", "executed", "released"),
    ]


async def test_what_nobody_carries_out_any_more_holds_no_slot(
    start: Open, database_url: str
) -> None:
    settings = settings_for(database_url, kill_grace_seconds=1.0)
    harness = await start(ScriptedExecutor(), settings=settings)
    commit = harness.ledger.commit

    async def lose_ends(requests: Any, *, command_id: str) -> list[Outcome]:
        if any(isinstance(request, ActOnTask) for request in requests):
            raise LedgerUnavailable("it is away")
        return await commit(requests, command_id=command_id)

    harness.ledger.commit = lose_ends  # type: ignore[method-assign]  # a fault
    await harness.submit("a")
    await until(lambda: any(run.ended for run in harness.engine.runs()))
    await harness.engine.stop()
    assert harness.engine.running == 0
    began = time.monotonic()
    await harness.engine.stop()
    assert time.monotonic() - began < 1.0


async def test_a_reply_that_fails_stops_nobody_else(
    start: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = await start(ScriptedExecutor())
    engine, told = harness.engine, list[str]()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(str(context["exception"])))
    release = engine.release

    def fail_once(run: Any) -> None:
        monkeypatch.setattr(engine, "release", release)
        release(run)
        raise RuntimeError("the slot resists")

    monkeypatch.setattr(engine, "release", fail_once)
    await harness.submit("a")
    await harness.settle()
    await harness.submit("b")
    await harness.settle()
    assert told == ["the slot resists"]
    assert await harness.event_types("b") == ["submitted", "started", "completed"]


async def test_a_run_goes_on_even_if_its_progress_could_not_be_noted() -> None:
    def fail(run: Any, outcome: Outcome) -> None:
        raise RuntimeError("it cannot be noted")

    report = ProgressReport(cast(Any, object()), fail)
    refusal = Refusal(code="stale", detail="too late")
    with pytest.raises(RuntimeError):
        report.set_result(refusal)
    assert report.done()
    assert await report.answered == refusal
