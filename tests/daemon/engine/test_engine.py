"""What the engine does with a task, on a real ledger of either database."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from daemon.engine.conftest import Open
from orchd.config.settings import Backoff, BreakerSettings, QueueSettings, RetrySettings
from orchd.engine.observer import Observer, TaskNews
from orchd.executors.port import (
    Deferred,
    ExecutorAnswer,
    Failure,
    Final,
    RunContext,
    Success,
)
from orchd.interfaces import TaskStatus
from orchd.ledger.port import ActOnTask
from orchd.tasks.commands import Cancel
from orchd.tasks.failures import ErrorClass
from orchd.tasks.state import Phase
from orchd.verifiers.port import Broken, Passed, Rejected
from support.engines import (
    NO_WAIT,
    ORIGIN,
    Harness,
    ScriptedExecutor,
    ScriptedVerifier,
    StubbornVerdict,
    settings_for,
    until,
)


async def test_a_task_without_verifier_completes_with_three_events(start: Open) -> None:
    harness = await start(ScriptedExecutor())
    await harness.submit("a")
    await harness.settle()
    state = await harness.task("a")
    assert (state.status, state.result, state.runs, state.attempts) == (
        TaskStatus.COMPLETED,
        "do a",
        1,
        1,
    )
    assert await harness.event_types("a") == ["submitted", "started", "completed"]


async def test_an_inline_verifier_adds_no_event_when_it_passes(start: Open) -> None:
    harness = await start(ScriptedExecutor(), verifiers=[ScriptedVerifier(inline=True)])
    await harness.submit("a", verifiers=("judge",))
    await harness.settle()
    assert await harness.event_types("a") == ["submitted", "started", "completed"]
    assert (await harness.task("a")).passed_verifiers == ("judge",)


@pytest.mark.parametrize("output", ["short", "long " * 10_000])
async def test_the_result_is_on_disk_before_a_verifier_that_takes_time_is_asked(
    start: Open, output: str
) -> None:
    seen: list[Phase] = []

    async def answer(context: RunContext) -> Success:
        return Success(output=output)

    async def look() -> Passed:
        seen.append((await harness.task("a")).phase)
        return Passed()

    judge = ScriptedVerifier([look], inline=output != "short")
    harness = await start(ScriptedExecutor(answer), verifiers=[judge])
    await harness.submit("a", verifiers=("judge",))
    await harness.settle()
    assert seen == [Phase.VERIFY]
    assert await harness.event_types("a") == [
        "submitted",
        "started",
        "executed",
        "verified",
        "completed",
    ]


@pytest.mark.parametrize("inline", [True, False])
async def test_a_refusal_retries_with_the_feedback(start: Open, inline: bool) -> None:
    judge = ScriptedVerifier([Rejected(feedback="longer, please")], inline=inline)
    executor = ScriptedExecutor()
    harness = await start(executor, verifiers=[judge])
    await harness.submit("a", verifiers=("judge",))
    await harness.settle()
    assert [call.feedback for call in executor.calls] == [None, "longer, please"]
    assert [call.attempt for call in executor.calls] == [1, 2]
    assert (await harness.event_types("a"))[1:6] == [
        "started",
        "executed",
        "verified",
        "retried",
        "started",
    ]
    assert (await harness.task("a")).status is TaskStatus.COMPLETED


async def test_refused_too_often_is_a_dead_letter_with_its_reason(start: Open) -> None:
    judge = ScriptedVerifier([Rejected(feedback=f"no {n}") for n in range(3)])
    executor = ScriptedExecutor()
    harness = await start(executor, verifiers=[judge])
    await harness.submit("a", verifiers=("judge",))
    await harness.settle()
    state = await harness.task("a")
    assert (state.status, state.error_class, state.feedback, state.attempts) == (
        TaskStatus.FAILED,
        "not_verified",
        "no 2",
        3,
    )


async def test_verifiers_are_asked_cheap_first_and_stop_at_the_first_refusal(
    start: Open,
) -> None:
    cheap = ScriptedVerifier([Rejected(feedback="no")] * 3, name="cheap", inline=True)
    costly = ScriptedVerifier(name="costly")
    harness = await start(ScriptedExecutor(), verifiers=[cheap, costly])
    await harness.submit("a", verifiers=("costly", "cheap"))
    await harness.settle()
    assert (len(cheap.calls), len(costly.calls)) == (3, 0)


async def test_a_verifier_that_is_down_costs_no_execution(start: Open) -> None:
    down = [Broken(error="down"), OSError("refused"), Broken(error="down")]
    executor = ScriptedExecutor()
    harness = await start(executor, verifiers=[ScriptedVerifier(down)])
    await harness.submit("a", verifiers=("judge",))
    await harness.settle()
    state = await harness.task("a")
    assert (state.status, len(executor.calls), state.attempts, state.runs) == (
        TaskStatus.COMPLETED,
        1,
        1,
        4,
    )


async def test_a_verifier_that_stays_down_dead_letters_with_the_result(start: Open) -> None:
    judge = ScriptedVerifier([Broken(error="down")] * 99)
    executor = ScriptedExecutor()
    harness = await start(executor, verifiers=[judge])
    await harness.submit("a", verifiers=("judge",))
    await harness.settle()
    state = await harness.task("a")
    assert (state.status, state.error_class, state.result) == (
        TaskStatus.FAILED,
        "verifier_error",
        "do a",
    )
    assert (len(executor.calls), len(judge.calls)) == (1, 10)


async def test_verifiers_that_passed_are_not_asked_again(start: Open) -> None:
    first = ScriptedVerifier(name="first")
    second = ScriptedVerifier([Broken(error="down")], name="second")
    harness = await start(ScriptedExecutor(), verifiers=[first, second])
    await harness.submit("a", verifiers=("first", "second"))
    await harness.settle()
    assert (len(first.calls), len(second.calls)) == (1, 2)
    assert (await harness.task("a")).status is TaskStatus.COMPLETED


RAISED = [
    ValueError("boom"),
    SystemExit(3),
    KeyboardInterrupt(),
    asyncio.CancelledError("mine"),
    RecursionError("deep"),
    MemoryError(),
    BaseException("bare"),
    TimeoutError("not the limit"),
    StopAsyncIteration(),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
async def test_whatever_an_executor_raises_fails_that_task_only(
    start: Open, error: BaseException
) -> None:
    async def work(context: RunContext) -> ExecutorAnswer:
        if context.task_id == "bad":
            raise error
        return Success(output="fine")

    harness = await start(ScriptedExecutor(work))
    await harness.submit("bad")
    await harness.submit("good")
    await harness.settle()
    bad = await harness.task("bad")
    assert (bad.status, bad.error_class) == (TaskStatus.FAILED, "exception")
    assert type(error).__name__ in (bad.error or "")
    assert (await harness.task("good")).status is TaskStatus.COMPLETED


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


async def test_an_error_that_cannot_be_printed_is_recorded(start: Open) -> None:
    async def work(context: RunContext) -> ExecutorAnswer:
        raise Unprintable

    harness = await start(ScriptedExecutor(work))
    await harness.submit("a")
    await harness.settle()
    assert "Unprintable" in ((await harness.task("a")).error or "")


@pytest.mark.parametrize(
    "rubbish", [None, 7, "text", object(), Passed()], ids=lambda value: type(value).__name__
)
async def test_rubbish_instead_of_an_answer_is_a_failure(start: Open, rubbish: Any) -> None:
    async def work(context: RunContext) -> Any:
        return rubbish

    harness = await start(ScriptedExecutor(work))
    await harness.submit("a", max_attempts=1)
    await harness.settle()
    assert (await harness.task("a")).error_class == "invalid_result"


async def test_output_that_no_database_stores_is_made_storable(start: Open) -> None:
    async def work(context: RunContext) -> ExecutorAnswer:
        return Success(output="a\0b\ud800c", metadata={"x\0": object(), "n": float("nan")})

    harness = await start(ScriptedExecutor(work))
    await harness.submit("a")
    await harness.settle()
    state = await harness.task("a")
    assert state.status is TaskStatus.COMPLETED
    assert (state.result or "").startswith("a\ufffdb\ufffd")


async def test_an_execution_is_stopped_at_its_time_limit(start: Open) -> None:
    cancelled = asyncio.Event()

    async def work(context: RunContext) -> ExecutorAnswer:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return Success(output="never")

    harness = await start(ScriptedExecutor(work))
    await harness.submit("a", max_attempts=1, execute_timeout_seconds=0.1)
    await harness.settle()
    assert cancelled.is_set()
    assert (await harness.task("a")).error_class == "timeout"


async def test_a_body_that_ignores_its_cancellation_is_left_behind(start: Open) -> None:
    released = asyncio.Event()

    async def work(context: RunContext) -> ExecutorAnswer:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue
        return Success(output="too late")

    harness = await start(ScriptedExecutor(work))
    await harness.submit("a", max_attempts=1, execute_timeout_seconds=0.1)
    await harness.settle()
    released.set()
    state = await harness.task("a")
    assert (state.status, state.error_class) == (TaskStatus.FAILED, "timeout")


async def test_a_verification_is_stopped_at_its_time_limit(start: Open) -> None:
    async def hang() -> Passed:
        await asyncio.Event().wait()
        return Passed()

    executor = ScriptedExecutor()
    harness = await start(executor, verifiers=[ScriptedVerifier([hang])])
    await harness.submit("a", verifiers=("judge",), verify_timeout_seconds=0.1)
    await harness.settle()
    assert (await harness.task("a")).status is TaskStatus.COMPLETED
    assert len(executor.calls) == 1


@pytest.mark.parametrize("inline", [True, False])
async def test_a_verifier_that_ignores_its_cancellation_costs_no_execution(
    start: Open, inline: bool
) -> None:
    executor, verdict = ScriptedExecutor(), StubbornVerdict()
    judge = ScriptedVerifier([verdict], inline=inline)
    harness = await start(executor, verifiers=[judge])
    await harness.submit("a", verifiers=("judge",), verify_timeout_seconds=0.1)
    await harness.settle()
    verdict.released.set()
    state = await harness.task("a")
    assert (state.status, state.attempts, state.runs) == (TaskStatus.COMPLETED, 1, 2)
    assert len(executor.calls) == 1


async def test_a_verifier_that_ignores_a_drain_costs_no_execution(start: Open) -> None:
    executor, verdict = ScriptedExecutor(), StubbornVerdict()
    judge = ScriptedVerifier([verdict], inline=True)
    harness = await start(executor, verifiers=[judge])
    await harness.submit("a", verifiers=("judge",))
    await until(lambda: bool(judge.calls))
    await harness.engine.drain(0.0)
    verdict.released.set()
    events = await harness.event_types("a")
    assert events == ["submitted", "started", "executed", "released"]
    harness.engine.resume_claims()
    await harness.settle()
    state = await harness.task("a")
    assert (state.status, state.attempts) == (TaskStatus.COMPLETED, 1)
    assert len(executor.calls) == 1


async def test_a_final_failure_is_not_tried_again(start: Open) -> None:
    async def work(context: RunContext) -> ExecutorAnswer:
        return Final(error="never")

    executor = ScriptedExecutor(work)
    harness = await start(executor)
    await harness.submit("a")
    await harness.settle()
    state = await harness.task("a")
    assert (state.status, state.error_class, len(executor.calls)) == (
        TaskStatus.FAILED,
        "final_failure",
        1,
    )


async def test_later_charges_no_attempt(start: Open) -> None:
    async def work(context: RunContext) -> ExecutorAnswer:
        if context.run < 5:
            return Deferred(until=harness.engine.clock.now() + 50_000, reason="busy")
        return Success(output=str(context.attempt))

    harness = await start(ScriptedExecutor(work))
    await harness.submit("a")
    await harness.settle()
    state = await harness.task("a")
    assert (state.status, state.runs, state.attempts, state.result) == (
        TaskStatus.COMPLETED,
        5,
        1,
        "1",
    )


async def test_later_too_often_is_a_dead_letter(start: Open, database_url: str) -> None:
    async def work(context: RunContext) -> ExecutorAnswer:
        return Deferred(until=harness.engine.clock.now())

    retry = RetrySettings(max_deferrals=3, backoff=NO_WAIT.backoff)
    harness = await start(
        ScriptedExecutor(work), settings=settings_for(database_url, retry=retry)
    )
    await harness.submit("a")
    await harness.settle()
    assert (await harness.task("a")).error_class == "deferred_too_often"


async def test_a_retry_waits_for_its_backoff(start: Open, database_url: str) -> None:
    starts: list[int] = []

    async def work(context: RunContext) -> ExecutorAnswer:
        starts.append(harness.engine.clock.now())
        return Failure(error="no")

    retry = RetrySettings(backoff=Backoff(initial_seconds=0.3, factor=2.0, jitter=False))
    harness = await start(
        ScriptedExecutor(work), settings=settings_for(database_url, retry=retry)
    )
    await harness.submit("a")
    await harness.settle()
    assert starts[1] - starts[0] >= 300_000
    assert starts[2] - starts[1] >= 600_000


async def test_a_delayed_task_starts_at_its_time_and_not_before(start: Open) -> None:
    starts: list[int] = []

    async def work(context: RunContext) -> ExecutorAnswer:
        starts.append(harness.engine.clock.now())
        return Success(output="")

    harness = await start(ScriptedExecutor(work))
    due = harness.engine.clock.now() + 400_000
    await harness.submit("a", run_at=due)
    await harness.settle()
    assert due <= starts[0] < due + 1_000_000


async def test_higher_priority_starts_first(start: Open, database_url: str) -> None:
    executor = ScriptedExecutor()
    harness = await start(executor, settings=settings_for(database_url, concurrency=1))
    harness.engine.pause_claims()
    requests = [harness.request(f"t{n}", priority=n % 3) for n in range(9)]
    await harness.engine.requests(requests)
    harness.engine.resume_claims()
    await harness.settle()
    assert [int(c.task_id[1:]) % 3 for c in executor.calls] == [2] * 3 + [1] * 3 + [0] * 3


async def test_no_more_run_at_once_than_there_are_slots(start: Open) -> None:
    most = running = 0

    async def work(context: RunContext) -> ExecutorAnswer:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return Success(output="")

    harness = await start(ScriptedExecutor(work))
    await harness.engine.requests([harness.request(f"t{n}") for n in range(40)])
    await harness.settle()
    assert most == 4


async def test_a_queue_limit_holds(start: Open, database_url: str) -> None:
    most = running = 0

    async def work(context: RunContext) -> ExecutorAnswer:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return Success(output="")

    import msgspec

    settings = msgspec.structs.replace(
        settings_for(database_url), queues={"small": QueueSettings(concurrency=2)}
    )
    harness = await start(ScriptedExecutor(work), settings=settings)
    await harness.engine.requests(
        [harness.request(f"t{n}", queue="small") for n in range(20)]
    )
    await harness.settle()
    assert most == 2


async def test_a_running_task_is_cancelled(start: Open) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work(context: RunContext) -> ExecutorAnswer:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return Success(output="")

    harness = await start(ScriptedExecutor(work))
    await harness.submit("a")
    await asyncio.wait_for(begun.wait(), 5)
    cancel = Cancel(now=harness.engine.clock.now())
    await harness.engine.request(ActOnTask(task_id="a", command=cancel, origin=ORIGIN))
    await asyncio.wait_for(ended.wait(), 2)
    await harness.settle()
    assert (await harness.event_types("a"))[2:] == ["cancel_requested", "cancelled"]


async def test_a_drain_returns_what_does_not_end_uncharged(start: Open) -> None:
    async def work(context: RunContext) -> ExecutorAnswer:
        await asyncio.sleep(0.1 if context.task_id == "short" else 60)
        return Success(output="done")

    executor = ScriptedExecutor(work)
    harness = await start(executor)
    await harness.submit("short")
    await harness.submit("long")
    await until(lambda: len(executor.calls) == 2)
    await harness.engine.drain(1.0)
    assert (await harness.task("short")).status is TaskStatus.COMPLETED
    state = await harness.task("long")
    assert (state.status, state.attempts, state.runs) == (TaskStatus.PENDING, 0, 1)
    assert (await harness.event_types("long"))[-1] == "released"


async def test_a_drain_during_verification_keeps_the_result(start: Open) -> None:
    asked = asyncio.Event()

    async def hang() -> Passed:
        asked.set()
        await asyncio.Event().wait()
        return Passed()

    executor = ScriptedExecutor()
    harness = await start(executor, verifiers=[ScriptedVerifier([hang])])
    await harness.submit("a", verifiers=("judge",))
    await asyncio.wait_for(asked.wait(), 5)
    await harness.engine.drain(0)
    harness.engine.resume_claims()
    await harness.settle()
    assert (await harness.task("a")).status is TaskStatus.COMPLETED
    assert len(executor.calls) == 1


async def test_a_drain_during_an_inline_verification_keeps_the_result(start: Open) -> None:
    asked = asyncio.Event()

    async def hang() -> Passed:
        asked.set()
        await asyncio.Event().wait()
        return Passed()

    executor = ScriptedExecutor()
    harness = await start(executor, verifiers=[ScriptedVerifier([hang], inline=True)])
    await harness.submit("a", verifiers=("judge",))
    await asyncio.wait_for(asked.wait(), 5)
    await harness.engine.drain(0)
    harness.engine.resume_claims()
    await harness.settle()
    assert (await harness.task("a")).status is TaskStatus.COMPLETED
    assert len(executor.calls) == 1


async def test_the_breaker_opens_probes_and_closes(start: Open, database_url: str) -> None:
    down = True

    async def work(context: RunContext) -> ExecutorAnswer:
        if down:
            return Failure(error="connection refused", error_class=ErrorClass.DEPENDENCY)
        return Success(output="up")

    executor = ScriptedExecutor(work)
    breaker = BreakerSettings(failures=3, cooldown_seconds=0.3)
    settings = settings_for(database_url, breaker=breaker, concurrency=1)
    harness = await start(executor, settings=settings)
    await harness.engine.requests(
        [harness.request(f"t{n}", max_attempts=5) for n in range(4)]
    )

    async def opened_twice() -> bool:
        entries = await harness.ledger.log(after=0, limit=1000)
        return [e.type for e in entries].count("breaker.opened") >= 2

    async with asyncio.timeout(15):
        while not await opened_twice():
            await asyncio.sleep(0.01)
    down = False
    await harness.settle()
    types = [e.type for e in await harness.ledger.log(after=0, limit=1000)]
    breaker_types = [t.removeprefix("breaker.") for t in types if t.startswith("breaker.")]
    probes, last = breaker_types[:-1], breaker_types[-1]
    assert (probes, last) == (["opened", "half_opened"] * (len(probes) // 2), "closed")
    assert len(probes) >= 4
    for n in range(4):
        assert (await harness.task(f"t{n}")).status is TaskStatus.COMPLETED
    # Only the failures that opened the breaker were charged.
    failed = [t for t in types if t == "task.retried"]
    assert len(failed) <= 3


async def test_a_task_failure_does_not_open_the_breaker(start: Open) -> None:
    async def work(context: RunContext) -> ExecutorAnswer:
        return Failure(error="own fault")

    harness = await start(ScriptedExecutor(work))
    await harness.engine.requests([harness.request(f"t{n}") for n in range(10)])
    await harness.settle()
    assert await harness.ledger.breakers() == []


class Raising(Observer):
    def task_moved(self, news: TaskNews) -> None:
        raise RuntimeError("observer")


async def test_an_observer_that_raises_changes_nothing(start: Open) -> None:
    harness = await start(ScriptedExecutor(), observers=[Raising()])
    await harness.submit("a")
    await harness.settle()
    assert (await harness.task("a")).status is TaskStatus.COMPLETED


async def test_a_task_for_an_unknown_executor_is_not_claimed(start: Open) -> None:
    harness = await start(ScriptedExecutor())
    await harness.submit("other", executor="elsewhere")
    await harness.submit("mine")
    await harness.settle()
    assert (await harness.task("other")).status is TaskStatus.PENDING
    assert (await harness.task("mine")).status is TaskStatus.COMPLETED


async def test_a_vanished_verifier_leaves_the_result_waiting(start: Open) -> None:
    executor = ScriptedExecutor()
    harness = await start(executor)
    await harness.submit("a", verifiers=("gone",))
    await until(lambda: bool(executor.calls) and harness.engine.running == 0)
    await until(lambda: harness.engine.committer.idle)
    state = await harness.task("a")
    assert (state.status, state.waiting_reason, state.waiting_ref, state.result) == (
        TaskStatus.PENDING,
        "executor missing",
        "gone",
        "do a",
    )


async def test_a_dead_workers_tasks_are_run_by_the_next(database_url: str) -> None:
    async def hang(context: RunContext) -> ExecutorAnswer:
        await asyncio.Event().wait()
        return Success(output="")

    stuck = ScriptedExecutor(hang)
    settings = settings_for(database_url, lease_seconds=1.0)
    first = await Harness.open(database_url, [stuck], settings=settings)
    await first.submit("a")
    await until(lambda: bool(stuck.calls))
    await first.crash()
    executor = ScriptedExecutor()
    second = await Harness.open(database_url, [executor], settings=settings)
    try:
        await second.settle()
        state = await second.task("a")
        assert (state.status, state.crashes, state.attempts, state.runs) == (
            TaskStatus.COMPLETED,
            1,
            1,
            2,
        )
    finally:
        await second.close()


async def test_a_crash_after_the_result_was_recorded_never_executes_again(
    database_url: str,
) -> None:
    asked = asyncio.Event()

    async def hang() -> Passed:
        asked.set()
        await asyncio.Event().wait()
        return Passed()

    settings = settings_for(database_url, lease_seconds=1.0)
    before = ScriptedExecutor()
    first = await Harness.open(
        database_url, [before], [ScriptedVerifier([hang])], settings=settings
    )
    await first.submit("a", verifiers=("judge",))
    await asyncio.wait_for(asked.wait(), 5)
    await first.crash()
    after = ScriptedExecutor()
    second = await Harness.open(
        database_url, [after], [ScriptedVerifier()], settings=settings
    )
    try:
        await second.settle()
        assert (await second.task("a")).status is TaskStatus.COMPLETED
        assert (len(before.calls), len(after.calls)) == (1, 0)
    finally:
        await second.close()


async def test_a_poison_task_is_cornered_and_bystanders_clear_themselves(
    database_url: str,
) -> None:
    settings = settings_for(database_url, lease_seconds=1.0)

    async def hang(context: RunContext) -> ExecutorAnswer:
        if context.task_id == "poison":
            poisoned.set()
            await asyncio.Event().wait()
        await asyncio.wait([asyncio.ensure_future(poisoned.wait())], timeout=0.3)
        if poisoned.is_set():
            await asyncio.Event().wait()
        return Success(output="clean")

    for _ in range(4):
        poisoned = asyncio.Event()
        harness = await Harness.open(
            database_url, [ScriptedExecutor(hang)], settings=settings
        )
        if await harness.ledger.task("poison") is None:
            await harness.engine.requests(
                [harness.request(i) for i in ("poison", "bystander")]
            )
        await asyncio.wait_for(poisoned.wait(), 10)
        await asyncio.sleep(0.05)
        await harness.crash()
    last = await Harness.open(database_url, [ScriptedExecutor()], settings=settings)
    try:
        await last.settle()
        poison = await last.task("poison")
        assert (poison.status, poison.error_class) == (TaskStatus.FAILED, "crashed")
        assert (await last.task("bystander")).status is TaskStatus.COMPLETED
    finally:
        await last.close()


async def test_a_fenced_worker_starts_over_and_its_late_result_is_rejected(
    postgres_url: str,
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(context: RunContext) -> ExecutorAnswer:
        begun.set()
        await go_on.wait()
        return Success(output="late")

    settings = settings_for(postgres_url, lease_seconds=1.0)
    first = await Harness.open(postgres_url, [ScriptedExecutor(slow)], settings=settings)
    second = await Harness.open(postgres_url, [ScriptedExecutor()], settings=settings)
    second.engine.pause_claims()
    try:
        await first.submit("a")
        await asyncio.wait_for(begun.wait(), 5)
        lost = first.engine.worker_id
        await first.engine.lease.stop()
        assert await second.ledger.fence_worker(lost, only_if_expired=False)
        first.engine.pause_claims()
        second.engine.resume_claims()

        async def taken() -> bool:
            return (await second.task("a")).status is TaskStatus.COMPLETED

        async with asyncio.timeout(10):
            while not await taken():
                await asyncio.sleep(0.02)
        go_on.set()
        await until(lambda: first.engine.running == 0)
        await first.engine.lease.tick()
        assert first.engine.worker_id != lost
        state = await second.task("a")
        assert (state.result, state.runs) == ("do a", 2)
        assert (await second.event_types("a"))[-1] == "late_result_rejected"
        await second.engine.drain(0.0)
        await first.submit("b")
        first.engine.resume_claims()
        await first.settle()
        assert (await first.task("b")).result == "late"
    finally:
        await first.close()
        await second.close()


async def test_a_short_wait_is_not_rounded_up_to_the_next_look(start: Open) -> None:
    ends: list[float] = []
    loop = asyncio.get_running_loop()

    async def work(context: RunContext) -> ExecutorAnswer:
        ends.append(loop.time())
        if context.run < 4:
            return Deferred(until=harness.engine.clock.now() + 100_000)
        return Success(output="")

    harness = await start(ScriptedExecutor(work))
    await harness.submit("a")
    await harness.settle()
    assert ends[3] - ends[0] < 0.9


async def test_a_half_open_breaker_lets_one_task_through(
    start: Open, database_url: str
) -> None:
    down, probing, go_on = True, asyncio.Event(), asyncio.Event()

    async def work(context: RunContext) -> ExecutorAnswer:
        if down:
            return Failure(error="connection refused", error_class=ErrorClass.DEPENDENCY)
        probing.set()
        await go_on.wait()
        return Success(output="up")

    executor = ScriptedExecutor(work)
    breaker = BreakerSettings(failures=1, cooldown_seconds=1.0)
    settings = settings_for(database_url, breaker=breaker, concurrency=8)
    harness = await start(executor, settings=settings)
    await harness.submit("first", max_attempts=9)
    await until(lambda: len(executor.calls) == 1)
    down = False
    await harness.engine.requests([harness.request(f"t{n}") for n in range(5)])
    await asyncio.wait_for(probing.wait(), 10)
    for _ in range(5):
        harness.engine.wake()
        await asyncio.sleep(0.05)
    assert len(executor.calls) == 2
    go_on.set()
    await harness.settle()
    assert len(executor.calls) == 7


async def test_a_task_in_a_queue_that_is_not_served_keeps_nobody_waiting(
    start: Open, database_url: str
) -> None:
    settings = settings_for(database_url, queues=("mine", "my-*"))
    harness = await start(ScriptedExecutor(), settings=settings)
    await harness.submit("served", queue="my-own")
    await harness.submit("left", queue="theirs")
    await harness.settle()
    assert (await harness.task("served")).status is TaskStatus.COMPLETED
    assert (await harness.task("left")).status is TaskStatus.PENDING
