"""The orchestrator as a library, as somebody uses it who knows only the teaching text."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from orchd import (
    AlwaysPassVerifier,
    ExecutionResult,
    Executor,
    FakeExecutor,
    FinalFailure,
    InMemoryTaskStore,
    Later,
    Orchestrator,
    OrchestratorBuilder,
    OrchestratorConfig,
    OrchestratorState,
    ParallelOrchestrator,
    PriorityTaskStore,
    RunContext,
    SafetyCheck,
    SimpleCircuitBreaker,
    Task,
    TaskStatus,
    TaskStore,
    VerificationResult,
    Verifier,
)

HOOKS = (
    "on_run_start",
    "on_task_start",
    "on_task_retry",
    "on_task_complete",
    "on_task_fail",
    "on_run_end",
)


def passes(feedback: str = "fine") -> VerificationResult:
    return VerificationResult(passed=True, confidence=1.0, feedback=feedback)


def refuses(feedback: str) -> VerificationResult:
    return VerificationResult(passed=False, confidence=0.1, feedback=feedback)


class Doing(Executor):
    """Does what a function says."""

    def __init__(self, function: Callable[[Task], Any]) -> None:
        self.function = function

    def execute(self, task: Task) -> Any:
        return self.function(task)


class Judging(Verifier):
    """Gives prepared verdicts, then passes."""

    def __init__(self, *verdicts: VerificationResult | BaseException) -> None:
        self.verdicts = list(verdicts)
        self.judged: list[ExecutionResult] = []

    def verify(self, task: Task, result: ExecutionResult) -> VerificationResult:
        self.judged.append(result)
        verdict = self.verdicts.pop(0) if self.verdicts else passes()
        if isinstance(verdict, BaseException):
            raise verdict
        return verdict


def store_of(*ids: str) -> InMemoryTaskStore:
    store = InMemoryTaskStore()
    for task_id in ids:
        store.add(task_id, f"do {task_id}")
    return store


def watched(orchestrator: Orchestrator) -> list[tuple[Any, ...]]:
    """Record every hook with the task's id and attempts at that moment."""
    seen: list[tuple[Any, ...]] = []

    def record(event: str) -> None:
        def hook(orch: Orchestrator, task: Task | None, result: Any) -> None:
            seen.append((event, task and task.id, task and task.attempts))

        orchestrator.add_hook(event, hook)

    for event in HOOKS:
        record(event)
    return seen


def saying(text: Callable[[Any], str]) -> Callable[[Any, Any, Any], None]:
    """Return a hook that prints a text about its task."""

    def hook(orchestrator: Any, task: Any, result: Any) -> None:
        sys.stdout.write(text(task) + "\n")

    return hook


def statuses(store: InMemoryTaskStore) -> list[str]:
    return [task.status.value for task in store.tasks.values()]


# --- the demo and the walkthrough -----------------------------------------------------


def test_the_demo_prints_what_the_teaching_text_promises(
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = InMemoryTaskStore()
    store.add("task-001", "Write a haiku")
    store.add("task-002", "Explain loops")
    store.add("task-003", "List 3 benefits")
    orchestrator = (
        OrchestratorBuilder()
        .with_task_store(store)
        .with_executor(FakeExecutor(success=True))
        .with_verifier(AlwaysPassVerifier())
        .with_safety(SimpleCircuitBreaker(max_iterations=10))
        .with_config(OrchestratorConfig(max_attempts_per_task=3))
        .on_task_start(
            saying(lambda t: f"\n [{t.attempts + 1}] Starting: {t.description[:40]}...")
        )
        .on_task_complete(saying(lambda t: " ✓ Completed!"))
        .on_task_fail(saying(lambda t: f" ✗ Failed after {t.attempts} attempts"))
        .on_task_retry(saying(lambda t: " ↻ Will retry..."))
        .build()
    )
    stats = orchestrator.run().to_dict()
    assert capsys.readouterr().out == (
        "\n [1] Starting: Write a haiku...\n ✓ Completed!\n"
        "\n [1] Starting: Explain loops...\n ✓ Completed!\n"
        "\n [1] Starting: List 3 benefits...\n ✓ Completed!\n"
    )
    assert stats.pop("elapsed_seconds") < 5
    assert stats == {
        "tasks_started": 3,
        "tasks_completed": 3,
        "tasks_failed": 0,
        "executions": 3,
    }
    task = store.get_task("task-001")
    assert task is not None
    assert task.result == "Fake result for: Write a haiku"


def test_a_retry_prints_attempt_one_then_attempt_two(
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = store_of("task-001")
    orchestrator = Orchestrator(store, FakeExecutor(), Judging(refuses("too short")))
    orchestrator.add_hook(
        "on_task_start", saying(lambda t: f"[{t.attempts + 1}] {t.status.value}")
    )
    orchestrator.add_hook("on_task_retry", saying(lambda t: f"again, {t.status.value}"))
    orchestrator.add_hook("on_task_complete", saying(lambda t: str(t.status.value)))
    orchestrator.run()
    printed = capsys.readouterr().out.splitlines()
    assert printed == ["[1] pending", "again, pending", "[2] pending", "completed"]


def test_tasks_that_always_fail_print_their_attempts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    orchestrator = Orchestrator(store_of("a"), FakeExecutor(success=False))
    orchestrator.add_hook("on_task_fail", saying(lambda t: f"after {t.attempts}"))
    stats = orchestrator.run()
    assert capsys.readouterr().out == "after 3\n"
    assert (stats.tasks_failed, stats.executions, stats.tasks_started) == (1, 3, 3)


# --- a user's own classes -------------------------------------------------------------


class RecordingStore(TaskStore):
    """A store that somebody wrote with lists and copies instead of one dictionary."""

    def __init__(self, *tasks: Task) -> None:
        self.rows = list(tasks)
        self.calls: list[tuple[Any, ...]] = []

    def _row(self, task_id: str) -> Task:
        return next(row for row in self.rows if row.id == task_id)

    def get_next(self) -> Task | None:
        self.calls.append(("get_next",))
        pending = [row for row in self.rows if row.status == TaskStatus.PENDING]
        return Task(**vars(pending[0])) if pending else None

    def has_pending(self) -> bool:
        self.calls.append(("has_pending",))
        return any(row.status == TaskStatus.PENDING for row in self.rows)

    def update_status(self, task_id: str, status: TaskStatus) -> None:
        self.calls.append(("update_status", task_id, status.value))
        self._row(task_id).status = status

    def save_result(self, task_id: str, result: str) -> None:
        self.calls.append(("save_result", task_id, result))
        self._row(task_id).result = result

    def increment_attempts(self, task_id: str) -> None:
        self.calls.append(("increment_attempts", task_id))
        self._row(task_id).attempts += 1

    def get_task(self, task_id: str) -> Task | None:
        self.calls.append(("get_task", task_id))
        return Task(**vars(self._row(task_id)))


class Limit(SafetyCheck):
    """Allows a number of attempts."""

    def __init__(self, attempts: int) -> None:
        self.left = attempts
        self.heard: list[str] = []

    def allow_continue(self) -> bool:
        return self.left > 0

    def record_success(self) -> None:
        self.left -= 1
        self.heard.append("success")

    def record_failure(self, error: str) -> None:
        self.left -= 1
        self.heard.append(error)

    def get_stop_reason(self) -> str | None:
        return None if self.left > 0 else "limit reached"


def test_a_users_store_is_driven_in_order_with_the_result_before_completed() -> None:
    store = RecordingStore(Task(id="a", description="one"))
    Orchestrator(store, FakeExecutor(), Judging(refuses("no"))).run()
    start = [
        ("has_pending",),
        ("get_next",),
        ("update_status", "a", "in_progress"),
        ("increment_attempts", "a"),
        ("get_task", "a"),
    ]
    assert store.calls[:7] == [*start, ("get_task", "a"), ("update_status", "a", "pending")]
    assert store.calls[7:14] == [
        *start,
        ("save_result", "a", "Fake result for: one"),
        ("update_status", "a", "completed"),
    ]
    assert set(store.calls[14:]) == {("has_pending",)}


def test_a_users_store_is_called_from_one_thread_the_callers() -> None:
    threads: set[int] = set()

    class Store(RecordingStore):
        def has_pending(self) -> bool:
            threads.add(threading.get_ident())
            return super().has_pending()

        def update_status(self, task_id: str, status: TaskStatus) -> None:
            threads.add(threading.get_ident())
            super().update_status(task_id, status)

    def execute(task: Task) -> ExecutionResult:
        threads.add(threading.get_ident())
        return ExecutionResult(True, "ok", 1.0)

    Orchestrator(Store(Task("a", "one"), Task("b", "two")), Doing(execute)).run()
    assert threads == {threading.get_ident()}


def test_a_users_safety_check_counts_everything_and_ends_the_run() -> None:
    safety = Limit(4)
    verifier = Judging(passes(), refuses("not yet"))
    store = store_of("a", "b", "c", "d")
    stats = Orchestrator(store, FakeExecutor(), verifier, safety).run()
    assert safety.heard == ["success", "not yet", "success", "success"]
    assert stats.tasks_completed == 3
    assert store.tasks["d"].status is TaskStatus.PENDING
    assert safety.get_stop_reason() == "limit reached"


def test_the_verifier_and_the_hooks_get_the_executors_very_own_result() -> None:
    token = object()
    made = ExecutionResult(True, "ok", 0.5, metadata={"token": token})
    verifier = Judging()
    completed: list[Any] = []
    orchestrator = Orchestrator(store_of("a"), Doing(lambda task: made), verifier)
    orchestrator.add_hook("on_task_complete", lambda o, t, r: completed.append(r))
    orchestrator.run()
    assert verifier.judged[0] is made
    assert completed[0] is made


def test_subclasses_with_their_own_public_methods_keep_working() -> None:
    class Careful(Orchestrator):
        def run(self) -> Any:
            self.stopped_by = "nobody"
            return super().run()

        def stop(self) -> None:
            self.stopped_by = "somebody"
            super().stop()

    class Newest(InMemoryTaskStore):
        def get_next(self) -> Task | None:
            pending = [t for t in self.tasks.values() if t.status is TaskStatus.PENDING]
            return pending[-1] if pending else None

    store = Newest([Task("a", "one"), Task("b", "two")])
    orchestrator = Careful(store, FakeExecutor())
    seen = watched(orchestrator)
    orchestrator.add_hook("on_task_complete", lambda o, t, r: o.stop())
    orchestrator.run()
    assert orchestrator.stopped_by == "somebody"
    assert [entry[:2] for entry in seen if entry[0] == "on_task_start"] == [
        ("on_task_start", "b")
    ]


# --- the checkpoint list --------------------------------------------------------------


def test_hooks_fire_in_order_and_see_the_attempts_of_their_moment() -> None:
    orchestrator = Orchestrator(store_of("a", "b"), FakeExecutor(), Judging(refuses("no")))
    seen = watched(orchestrator)
    orchestrator.run()
    assert seen == [
        ("on_run_start", None, None),
        ("on_task_start", "a", 0),
        ("on_task_retry", "a", 1),
        ("on_task_start", "a", 1),
        ("on_task_complete", "a", 2),
        ("on_task_start", "b", 0),
        ("on_task_complete", "b", 1),
        ("on_run_end", None, None),
    ]


def test_a_hook_that_raises_is_printed_and_changes_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    orchestrator = Orchestrator(store_of("a"), FakeExecutor())

    def broken(orch: Orchestrator, task: Task | None, result: Any) -> None:
        raise LookupError("lost")

    orchestrator.add_hook("on_task_start", broken)
    orchestrator.add_hook("on_no_such_event", broken)
    assert orchestrator.run().tasks_completed == 1
    assert capsys.readouterr().out == "Hook error (on_task_start): lost\n"


def test_the_breaker_stops_a_runaway_and_says_why() -> None:
    safety = SimpleCircuitBreaker(max_consecutive_failures=2)
    config = OrchestratorConfig(max_attempts_per_task=10**6)
    orchestrator = Orchestrator(
        store_of("a"), FakeExecutor(success=False), safety=safety, config=config
    )
    assert orchestrator.run().executions == 2
    assert safety.get_stop_reason() == "Too many consecutive failures (2)"
    assert orchestrator.state is OrchestratorState.STOPPED


def test_the_breaker_counts_iterations() -> None:
    safety = SimpleCircuitBreaker(max_iterations=2)
    stats = Orchestrator(store_of("a", "b", "c"), FakeExecutor(), safety=safety).run()
    assert stats.tasks_completed == 2
    assert safety.get_stop_reason() == "Max iterations (2) reached"


def test_run_can_be_called_again_for_tasks_added_since() -> None:
    store = store_of("a")
    orchestrator = Orchestrator(store, FakeExecutor())
    assert orchestrator.run().tasks_completed == 1
    store.add("b", "later")
    assert orchestrator.run().tasks_completed == 1
    assert orchestrator.stats.tasks_started == 1


def test_a_task_put_back_by_its_owner_starts_over() -> None:
    store = store_of("a")
    orchestrator = Orchestrator(store, FakeExecutor(success=False))
    assert orchestrator.run().executions == 3
    store.tasks["a"].status, store.tasks["a"].attempts = TaskStatus.PENDING, 0
    assert orchestrator.run().executions == 3


def test_without_retries_the_first_failure_is_the_last() -> None:
    config = OrchestratorConfig(retry_on_failure=False)
    stats = Orchestrator(store_of("a"), FakeExecutor(success=False), config=config).run()
    assert (stats.executions, stats.tasks_failed) == (1, 1)


def test_without_verification_the_verifier_is_not_asked() -> None:
    verifier = Judging(refuses("never"))
    config = OrchestratorConfig(verify_results=False)
    stats = Orchestrator(store_of("a"), FakeExecutor(), verifier, config=config).run()
    assert (stats.tasks_completed, verifier.judged) == (1, [])


def test_there_is_a_pause_between_tasks() -> None:
    config = OrchestratorConfig(pause_between_tasks=0.2)
    stats = Orchestrator(store_of("a", "b"), FakeExecutor(), config=config).run()
    assert stats.elapsed_seconds >= 0.2


# --- failures -------------------------------------------------------------------------


def test_an_executors_exception_fails_its_task_and_not_the_run() -> None:
    def execute(task: Task) -> ExecutionResult:
        if task.id == "a":
            raise RuntimeError("boom")
        return ExecutionResult(True, "ok", 1.0)

    safety = Limit(100)
    store = store_of("a", "b")
    orchestrator = Orchestrator(store, Doing(execute), safety=safety)
    stats = orchestrator.run()
    assert (stats.tasks_failed, stats.tasks_completed, stats.executions) == (1, 1, 4)
    assert store.tasks["a"].status is TaskStatus.FAILED
    assert safety.heard[0].startswith("RuntimeError: boom")
    assert orchestrator.state is OrchestratorState.STOPPED


def test_feedback_reaches_the_next_attempt() -> None:
    heard: list[str | None] = []

    class Listening(Executor):
        def execute(self, task: Task, context: RunContext) -> ExecutionResult:  # type: ignore[override]  # the context is injected
            heard.append(context.feedback)
            return ExecutionResult(True, f"answer {context.attempt}", 1.0)

    verifier = Judging(refuses("mention cats"), refuses("and dogs"))
    store = store_of("a")
    Orchestrator(store, Listening(), verifier).run()
    assert heard == [None, "mention cats", "and dogs"]
    assert store.tasks["a"].result == "answer 3"


def test_a_broken_verifier_is_asked_again_and_the_executor_is_not() -> None:
    executor = FakeExecutor()
    verifier = Judging(ConnectionError("down"), ConnectionError("still down"))
    store = store_of("a")
    stats = Orchestrator(store, executor, verifier).run()
    assert executor.call_count == 1
    assert len(verifier.judged) == 3
    assert stats.tasks_completed == 1
    assert store.tasks["a"].attempts == 1
    assert store.tasks["a"].result == "Fake result for: do a"


def test_a_verifier_that_stays_broken_fails_the_task_and_never_passes_it() -> None:
    executor = FakeExecutor()
    verifier = Judging(*[ConnectionError("down")] * 50)
    store = store_of("a")
    Orchestrator(store, executor, verifier).run()
    assert (executor.call_count, len(verifier.judged)) == (1, 10)
    assert store.tasks["a"].status is TaskStatus.FAILED


def test_a_result_that_waits_for_its_verifier_survives_until_the_next_run() -> None:
    executor = FakeExecutor()
    verifier = Judging(ConnectionError("down"))
    safety = Limit(1)
    store = store_of("a")
    orchestrator = Orchestrator(store, executor, verifier, safety)
    orchestrator.run()
    assert store.tasks["a"].status is TaskStatus.PENDING
    safety.left = 100
    assert orchestrator.run().tasks_completed == 1
    assert executor.call_count == 1


def test_final_failure_is_not_tried_again() -> None:
    calls: list[str] = []

    def execute(task: Task) -> ExecutionResult:
        calls.append(task.id)
        raise FinalFailure("impossible")

    store = store_of("a")
    Orchestrator(store, Doing(execute)).run()
    assert calls == ["a"]
    assert store.tasks["a"].status is TaskStatus.FAILED


def test_a_task_that_wants_to_wait_lets_the_others_go_first() -> None:
    order: list[str] = []

    def execute(task: Task) -> ExecutionResult:
        order.append(task.id)
        if order == ["a"]:
            raise Later(0.2)
        return ExecutionResult(True, "ok", 1.0)

    stats = Orchestrator(store_of("a", "b"), Doing(execute)).run()
    assert order == ["a", "b", "a"]
    assert stats.tasks_completed == 2
    assert stats.elapsed_seconds >= 0.2


def test_a_stopped_run_does_not_wait_for_tasks_that_wait() -> None:
    def execute(task: Task) -> ExecutionResult:
        orchestrator.stop()
        raise Later(3600)

    store = store_of("a")
    orchestrator = Orchestrator(store, Doing(execute))
    orchestrator.run()
    assert store.tasks["a"].status is TaskStatus.PENDING


def test_a_store_that_raises_ends_the_run_with_its_own_exception(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Full(InMemoryTaskStore):
        def save_result(self, task_id: str, result: str) -> None:
            raise OSError("disk full")

    orchestrator = Orchestrator(Full([Task("a", "one"), Task("b", "two")]), FakeExecutor())
    seen = watched(orchestrator)
    with pytest.raises(OSError, match="disk full"):
        orchestrator.run()
    assert orchestrator.state is OrchestratorState.ERROR
    assert [entry[0] for entry in seen] == ["on_run_start", "on_task_start", "on_run_end"]
    assert orchestrator.stats.end_time is not None
    assert caplog.text == ""


def test_a_safety_check_that_raises_ends_the_run() -> None:
    class Broken(Limit):
        def allow_continue(self) -> bool:
            raise ZeroDivisionError("safety")

    orchestrator = Orchestrator(store_of("a"), FakeExecutor(), safety=Broken(1))
    with pytest.raises(ZeroDivisionError):
        orchestrator.run()
    assert orchestrator.state is OrchestratorState.ERROR


def test_an_interrupt_of_the_caller_stops_the_run_and_gives_the_task_back() -> None:
    def execute(task: Task) -> ExecutionResult:
        raise KeyboardInterrupt

    store = store_of("a", "b")
    orchestrator = Orchestrator(store, Doing(execute))
    with pytest.raises(KeyboardInterrupt):
        orchestrator.run()
    assert [t.status.value for t in store.tasks.values()] == ["pending", "pending"]
    assert orchestrator.state is OrchestratorState.STOPPED


def test_nobody_runs_an_orchestrator_twice_at_once() -> None:
    errors: list[BaseException] = []

    def again(orch: Orchestrator, task: Task | None, result: Any) -> None:
        try:
            orch.run()
        except RuntimeError as error:
            errors.append(error)

    orchestrator = Orchestrator(store_of("a"), FakeExecutor())
    orchestrator.add_hook("on_task_start", again)
    assert orchestrator.run().tasks_completed == 1
    assert [str(error) for error in errors] == ["this orchestrator is running already"]


# --- pause, resume, stop --------------------------------------------------------------


def test_a_paused_run_starts_nothing_until_it_is_resumed() -> None:
    store = store_of("a", "b")
    orchestrator = Orchestrator(store, FakeExecutor())
    paused = threading.Event()

    def pause_once(orch: Orchestrator, task: Task | None, result: Any) -> None:
        if not paused.is_set():
            orch.pause()
            paused.set()

    orchestrator.add_hook("on_task_complete", pause_once)
    runner = threading.Thread(target=orchestrator.run)
    runner.start()
    assert paused.wait(10)
    runner.join(0.4)
    assert runner.is_alive()
    assert orchestrator.state is OrchestratorState.PAUSED
    assert statuses(store) == ["completed", "pending"]
    orchestrator.resume()
    runner.join(10)
    assert not runner.is_alive()
    assert statuses(store) == ["completed", "completed"]


def test_a_run_paused_after_its_last_task_waits_for_somebody() -> None:
    orchestrator = Orchestrator(store_of("a"), FakeExecutor())
    orchestrator.add_hook("on_task_complete", lambda o, t, r: o.pause())
    runner = threading.Thread(target=orchestrator.run)
    runner.start()
    runner.join(0.5)
    assert runner.is_alive()
    orchestrator.stop()
    runner.join(10)
    assert not runner.is_alive()


def test_stop_from_another_thread_lets_the_running_task_end() -> None:
    at_work, go_on = threading.Event(), threading.Event()

    def execute(task: Task) -> ExecutionResult:
        at_work.set()
        assert go_on.wait(10)
        return ExecutionResult(True, "ok", 1.0)

    store = store_of("a", "b")
    orchestrator = Orchestrator(store, Doing(execute))
    runner = threading.Thread(target=orchestrator.run)
    runner.start()
    assert at_work.wait(10)
    orchestrator.stop()
    go_on.set()
    runner.join(10)
    assert statuses(store) == ["completed", "pending"]
    assert orchestrator.state is OrchestratorState.STOPPED


# --- asynchronous code and loops ------------------------------------------------------


class Asynchronous(Executor):
    """Waits for another coroutine, so that it cannot run outside a loop."""

    def __init__(self) -> None:
        self.loops: set[int] = set()

    async def execute(self, task: Task) -> ExecutionResult:  # type: ignore[override]  # may be asynchronous
        self.loops.add(id(asyncio.get_running_loop()))
        await asyncio.sleep(0)
        return ExecutionResult(True, "from a coroutine", 1.0)


class AsynchronousVerifier(Verifier):
    async def verify(self, task: Task, result: ExecutionResult) -> VerificationResult:  # type: ignore[override]  # may be asynchronous
        await asyncio.sleep(0)
        return passes()


def test_executors_and_verifiers_may_be_coroutines() -> None:
    store = store_of("a")
    Orchestrator(store, Asynchronous(), AsynchronousVerifier()).run()
    assert store.tasks["a"].result == "from a coroutine"


async def test_run_works_inside_a_running_loop() -> None:
    store = store_of("a")
    assert Orchestrator(store, Asynchronous()).run().tasks_completed == 1  # noqa: ASYNC


async def test_run_async_leaves_the_loop_free_and_uses_it_for_coroutines() -> None:
    ticks = 0
    ended = asyncio.Event()

    async def tick() -> None:
        nonlocal ticks
        while not ended.is_set():
            ticks += 1
            await asyncio.sleep(0.005)

    def execute(task: Task) -> ExecutionResult:
        time.sleep(0.1)
        return ExecutionResult(True, "ok", 1.0)

    ticking = asyncio.create_task(tick())
    threads: set[int] = set()
    orchestrator = Orchestrator(store_of("a", "b"), Doing(execute))
    orchestrator.add_hook(
        "on_task_start", lambda o, t, r: threads.add(threading.get_ident())
    )
    assert (await orchestrator.run_async()).tasks_completed == 2
    ended.set()
    await ticking
    assert ticks > 10
    assert threads == {threading.get_ident()}

    executor = Asynchronous()
    await Orchestrator(store_of("a"), executor, AsynchronousVerifier()).run_async()
    assert executor.loops == {id(asyncio.get_running_loop())}


async def test_a_cancelled_run_async_gives_its_task_back() -> None:
    at_work = asyncio.Event()

    class Endless(Executor):
        async def execute(self, task: Task) -> ExecutionResult:  # type: ignore[override]  # may be asynchronous
            at_work.set()
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

    store = store_of("a")
    running = asyncio.create_task(Orchestrator(store, Endless()).run_async())
    await asyncio.wait_for(at_work.wait(), 10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert store.tasks["a"].status is TaskStatus.PENDING


# --- more at once, priorities ---------------------------------------------------------


def test_a_parallel_orchestrator_runs_tasks_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=10)

    def execute(task: Task) -> ExecutionResult:
        meeting.wait()
        return ExecutionResult(True, "met", 1.0)

    calls: set[int] = set()

    class Store(InMemoryTaskStore):
        def update_status(self, task_id: str, status: TaskStatus) -> None:
            calls.add(threading.get_ident())
            super().update_status(task_id, status)

    store = Store([Task(f"t{i}", "meet") for i in range(6)])
    orchestrator = ParallelOrchestrator(store, Doing(execute), max_workers=3)
    assert orchestrator.run().tasks_completed == 6
    assert calls == {threading.get_ident()}


def test_a_parallel_orchestrator_needs_a_worker() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        ParallelOrchestrator(store_of(), FakeExecutor(), max_workers=0)


def test_the_highest_priority_goes_first_and_equals_in_order() -> None:
    store = PriorityTaskStore([Task("z", "?", metadata={"priority": "no number"})])
    store.add("low", "l", priority=-1)
    store.add("high", "h", priority=10)
    store.add("first", "1")
    store.add("high2", "h2", priority=10)
    orchestrator = Orchestrator(store, FakeExecutor())
    seen = watched(orchestrator)
    orchestrator.run()
    started = [task_id for event, task_id, _ in seen if event == "on_task_start"]
    assert started == ["high", "high2", "z", "first", "low"]


def test_a_thousand_tasks_take_seconds_at_most() -> None:
    store = store_of(*(f"t{i}" for i in range(1_000)))
    stats = Orchestrator(store, FakeExecutor(), AlwaysPassVerifier()).run()
    assert stats.tasks_completed == 1_000
    assert stats.elapsed_seconds < 30


INTERRUPTED = """
import signal
import subprocess
import sys
from orchd import Executor, InMemoryTaskStore, Orchestrator, Task
import time
class Slow(Executor):
    def execute(self, task):
        print("at work", flush=True)
        time.sleep(60)
store = InMemoryTaskStore([Task("a", "one")])
try:
    Orchestrator(store, Slow()).run()
except KeyboardInterrupt:
    print("interrupted", store.tasks["a"].status.value, flush=True)
"""


def test_ctrl_c_ends_a_program_that_waits_for_an_executor() -> None:
    command = [sys.executable, "-c", INTERRUPTED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "at work\n"
        program.send_signal(signal.SIGINT)
        assert program.communicate(timeout=20)[0] == "interrupted pending\n"
    assert program.returncode == 0


def test_an_interrupt_amidst_the_stores_work_ends_the_run_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Slow(InMemoryTaskStore):
        def save_result(self, task_id: str, result: str) -> None:
            raise KeyboardInterrupt

    orchestrator = Orchestrator(Slow([Task("a", "one")]), FakeExecutor())
    with pytest.raises(KeyboardInterrupt):
        orchestrator.run()
    assert orchestrator.state is OrchestratorState.STOPPED
    assert orchestrator.stats.elapsed_seconds < 0.9
    assert caplog.text == ""
