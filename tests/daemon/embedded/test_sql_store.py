"""The task store on the event log, with and without an orchestrator."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchd import (
    ExecutionResult,
    Executor,
    FakeExecutor,
    Orchestrator,
    ParallelOrchestrator,
    RunContext,
    SQLTaskStore,
    Task,
    TaskStatus,
    VerificationResult,
    Verifier,
)
from orchd.engine.recovery import Recovery
from orchd.errors import StateLocked


@pytest.fixture
def store(database_url: str) -> Iterator[SQLTaskStore]:
    with SQLTaskStore(database_url) as opened:
        yield opened


class Picky(Verifier):
    """Refuses the first result and is down for the second one."""

    def __init__(self) -> None:
        self.calls = 0

    def verify(self, task: Task, result: ExecutionResult) -> VerificationResult:
        self.calls += 1
        if self.calls == 2:
            raise ConnectionError("down")
        return VerificationResult(self.calls > 1, 0.5, "say more")


class Attentive(Executor):
    def __init__(self) -> None:
        self.feedback: list[str | None] = []

    def execute(self, task: Task, context: RunContext) -> ExecutionResult:  # type: ignore[override]  # the context is injected
        self.feedback.append(context.feedback)
        return ExecutionResult(True, f"answer {context.attempt}", 0.5)


def test_an_orchestrator_works_on_the_log_itself(store: SQLTaskStore) -> None:
    store.add("Write", task_id="a", metadata={"k": [1, "ü"]})
    executor, verifier = Attentive(), Picky()
    orchestrator = Orchestrator(store, executor, verifier)
    seen: list[Any] = []

    def watch(event: str) -> None:
        def hook(orch: Any, task: Any, result: Any) -> None:
            seen.append((event, task.id, task.attempts))

        orchestrator.add_hook(event, hook)

    for event in ("on_task_start", "on_task_retry", "on_task_complete", "on_task_fail"):
        watch(event)
    stats = orchestrator.run()
    assert executor.feedback == [None, "say more"]
    assert verifier.calls == 3
    assert seen == [
        ("on_task_start", "a", 0),
        ("on_task_retry", "a", 1),
        ("on_task_start", "a", 1),
        ("on_task_retry", "a", 2),
        ("on_task_start", "a", 2),
        ("on_task_complete", "a", 2),
    ]
    assert (stats.tasks_completed, stats.executions) == (1, 2)
    assert store.get_task("a") == Task(
        "a", "Write", TaskStatus.COMPLETED, "answer 2", 2, {"k": [1, "ü"]}
    )


def test_priorities_come_first_and_a_task_has_its_own_attempts(store: SQLTaskStore) -> None:
    store.add("low", task_id="low", max_attempts=1)
    store.add("high", task_id="high", priority=9)
    order: list[str] = []
    orchestrator = Orchestrator(store, FakeExecutor(success=False))

    def note(orch: Any, task: Any, result: Any) -> None:
        order.append(task.id)

    orchestrator.add_hook("on_task_start", note)
    assert orchestrator.run().tasks_failed == 2
    assert sorted(order) == ["high", "high", "high", "low"]
    assert order[0] == "high"


def test_adding_the_same_task_again_changes_nothing(store: SQLTaskStore) -> None:
    first = store.add("same", task_id="a")
    assert store.add("same", task_id="a") == first
    with pytest.raises(ValueError, match="id_conflict"):
        store.add("other", task_id="a")


def test_hooks_may_add_tasks_and_stop_the_run(store: SQLTaskStore) -> None:
    store.add("first", task_id="a")

    def follow_up(orch: Orchestrator, task: Task | None, result: Any) -> None:
        assert task is not None
        if task.id == "a":
            store.add("second", task_id="b")
            store.add("third", task_id="c")
        else:
            orch.stop()

    orchestrator = Orchestrator(store, FakeExecutor())
    orchestrator.add_hook("on_task_complete", follow_up)
    assert orchestrator.run().tasks_completed == 2
    assert store.has_pending()


def test_a_safety_check_that_raises_ends_the_run_and_keeps_the_task(
    store: SQLTaskStore,
) -> None:
    class Broken:
        def allow_continue(self) -> bool:
            raise ZeroDivisionError("safety")

    store.add("one", task_id="a")
    orchestrator = Orchestrator(store, FakeExecutor(), safety=Broken())  # type: ignore[arg-type]  # only what is asked first
    with pytest.raises(ZeroDivisionError):
        orchestrator.run()
    assert store.has_pending()


def test_several_workers_share_the_log(store: SQLTaskStore) -> None:
    for number in range(20):
        store.add(f"task {number}")
    orchestrator = ParallelOrchestrator(store, FakeExecutor(), max_workers=4)
    assert orchestrator.run().tasks_completed == 20
    assert not store.has_pending()


async def test_run_async_works_on_the_log_too(store: SQLTaskStore) -> None:
    store.add("one", task_id="a")
    stats = await Orchestrator(store, FakeExecutor()).run_async()
    assert stats.tasks_completed == 1


def test_the_six_methods_work_without_an_orchestrator(store: SQLTaskStore) -> None:
    assert store.get_next() is None
    assert store.get_task("nobody") is None
    store.update_status("nobody", TaskStatus.FAILED)
    store.save_result("nobody", "nothing")
    store.add("one", task_id="a")
    store.add("two", task_id="b")
    for save_first in (True, False):
        task = store.get_next()
        assert task is not None
        store.update_status(task.id, TaskStatus.IN_PROGRESS)
        store.increment_attempts(task.id)
        if save_first:
            store.save_result(task.id, "done")
        store.update_status(task.id, TaskStatus.COMPLETED)
        if not save_first:
            store.save_result(task.id, "done")
        done = store.get_task(task.id)
        assert done is not None
        assert (done.status, done.result, done.attempts) == (
            TaskStatus.COMPLETED,
            "done",
            1,
        )
    assert not store.has_pending()
    with pytest.raises(ValueError, match="task a is completed"):
        store.update_status("a", TaskStatus.IN_PROGRESS)


def test_a_failed_task_may_be_made_pending_again(store: SQLTaskStore) -> None:
    store.add("one", task_id="a")
    store.update_status("a", TaskStatus.IN_PROGRESS)
    store.update_status("a", TaskStatus.PENDING)
    store.update_status("a", TaskStatus.IN_PROGRESS)
    store.update_status("a", TaskStatus.FAILED)
    assert not store.has_pending()
    store.update_status("a", TaskStatus.PENDING)
    task = store.get_next()
    assert task is not None
    assert task.attempts == 0


def test_a_second_process_is_told_who_has_the_file(sqlite_url: str) -> None:
    program = f"from orchd import SQLTaskStore\nSQLTaskStore({sqlite_url!r})"
    with SQLTaskStore(sqlite_url):
        ran = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        with pytest.raises(StateLocked):
            SQLTaskStore(sqlite_url)
    assert ran.returncode == 1
    assert "StateLocked" in ran.stderr


CRASHING = """
    import os, sys
    from orchd import Executor, Orchestrator, SQLTaskStore
    class Crash(Executor):
        def execute(self, task):
            os._exit(7)
    store = SQLTaskStore(sys.argv[1])
    store.add("one", task_id="a")
    Orchestrator(store, Crash()).run()
"""


def test_a_task_whose_process_died_is_done_by_the_next_one(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Recovery.tick

    async def look_late(recovery: Recovery) -> None:
        # The run used to end when it was sooner to find nothing pending.
        await asyncio.sleep(0.5)
        await look(recovery)

    monkeypatch.setattr(Recovery, "tick", look_late)
    program = textwrap.dedent(CRASHING)
    died = subprocess.run([sys.executable, "-c", program, database_url], check=False)
    assert died.returncode == 7
    with SQLTaskStore(database_url) as store:
        interrupted = store.get_task("a")
        assert interrupted is not None
        assert interrupted.status is TaskStatus.IN_PROGRESS
        Orchestrator(store, FakeExecutor()).run()
        task = store.get_task("a")
    assert task is not None
    assert task.status is TaskStatus.COMPLETED


def test_a_store_that_is_closed_lets_go_of_the_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'tasks.db'}"
    store = SQLTaskStore(url)
    store.add("one")
    store.close()
    store.close()
    with SQLTaskStore(url) as again:
        assert again.has_pending()
