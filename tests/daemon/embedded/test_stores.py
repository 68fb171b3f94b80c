"""The task stores that need no database, and checkpoints."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from orchd import (
    CheckpointingOrchestrator,
    ExecutionResult,
    Executor,
    FakeExecutor,
    InMemoryTaskStore,
    JSONTaskStore,
    Orchestrator,
    SimpleCircuitBreaker,
    Task,
    TaskStatus,
)


def test_the_json_file_has_the_form_of_the_teaching_text(tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    store = JSONTaskStore(str(path))
    store.add("Write a haiku", metadata={"mood": "calm"})
    store.add("Explain loops")
    Orchestrator(store, FakeExecutor()).run()
    first, second = json.loads(path.read_text())["tasks"]
    assert first == {
        "id": "task-001",
        "description": "Write a haiku",
        "status": "completed",
        "result": "Fake result for: Write a haiku",
        "attempts": 1,
        "metadata": {"mood": "calm"},
    }
    assert second["id"] == "task-002"
    assert path.read_text().startswith('{\n  "tasks": [\n    {\n      "id": "task-001",')


def test_a_json_file_is_read_back_and_gaps_have_defaults(tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    path.write_text('{"tasks": [{"id": "x", "description": "d"}]}')
    store = JSONTaskStore(path)
    assert store.get_task("x") == Task("x", "d")
    assert store.add("next").id == "task-002"
    assert list(JSONTaskStore(path).tasks) == ["x", "task-002"]


def test_a_new_task_never_takes_the_id_of_another(tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    path.write_text('{"tasks": [{"id": "task-002", "description": "d"}]}')
    assert JSONTaskStore(path).add("next").id == "task-003"


@pytest.mark.parametrize("text", ["", "[1]", '{"tasks": [{"id": 1}]}', '{"tasks": 7}'])
def test_a_file_without_tasks_is_named_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"tasks\.json does not hold tasks"):
        JSONTaskStore(path)
    assert path.read_text() == text


def test_a_rewritten_file_keeps_its_mode_and_its_place_behind_a_link(
    tmp_path: Path,
) -> None:
    path, link = tmp_path / "tasks.json", tmp_path / "link.json"
    JSONTaskStore(path).add("one")
    path.chmod(0o640)
    link.symlink_to(path)
    JSONTaskStore(link).add("two")
    assert link.is_symlink()
    assert len(JSONTaskStore(path).tasks) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


CRASHING = """
import os, signal, sys
from orchd import FakeExecutor, JSONTaskStore, Orchestrator
replace, moment = os.replace, int(sys.argv[2])
def crash(source, target):
    global moment
    moment -= 1
    if moment == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = crash
store = JSONTaskStore(sys.argv[1])
Orchestrator(store, FakeExecutor()).run()
"""


@pytest.mark.parametrize("moment", range(1, 9))
def test_a_crash_between_two_writes_leaves_a_whole_file(
    tmp_path: Path, moment: int
) -> None:
    """Each task is written four times; whenever the crash comes, nothing is torn."""
    path = tmp_path / "tasks.json"
    store = JSONTaskStore(path)
    store.add("one")
    store.add("two")
    command = [sys.executable, "-c", CRASHING, str(path), str(moment)]
    crashed = subprocess.run(command, capture_output=True, check=False)
    assert crashed.returncode == -signal.SIGKILL
    survived = JSONTaskStore(path)
    assert len(survived.tasks) == 2
    for task in survived.tasks.values():
        assert (task.status is TaskStatus.COMPLETED) <= (task.result is not None)
    Orchestrator(survived, FakeExecutor()).run()
    assert [task.status for task in JSONTaskStore(path).tasks.values()] == [
        TaskStatus.COMPLETED
    ] * 2


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    store = JSONTaskStore(path)
    store.add("one")
    with pytest.raises(TypeError):
        store.add("two", metadata={"not": {"json"}})
    assert list(JSONTaskStore(path).tasks) == ["task-001"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["tasks.json"]


# --- checkpoints ----------------------------------------------------------------------


class Stopping(Executor):
    """Stops its orchestrator at the second task."""

    def __init__(self) -> None:
        self.orchestrator: Orchestrator | None = None

    def execute(self, task: Task) -> ExecutionResult:
        if task.id == "b" and self.orchestrator is not None:
            self.orchestrator.stop()
        return ExecutionResult(True, f"did {task.id}", 1.0)


def tasks() -> InMemoryTaskStore:
    return InMemoryTaskStore([Task("a", "one"), Task("b", "two"), Task("c", "three")])


def test_another_process_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.json"
    executor = Stopping()
    first = CheckpointingOrchestrator(
        tasks(), executor, safety=SimpleCircuitBreaker(), checkpoint_path=path
    )
    executor.orchestrator = first
    first.run()

    store, breaker = tasks(), SimpleCircuitBreaker()
    second = CheckpointingOrchestrator(
        store, FakeExecutor(), safety=breaker, checkpoint_path=path
    )
    assert second.restore_checkpoint()
    assert (second.stats.tasks_completed, breaker.iterations) == (2, 2)
    assert [t.result for t in store.tasks.values()] == ["did a", "did b", None]
    assert second.run().tasks_completed == 1
    assert store.tasks["c"].result == "Fake result for: three"


def test_a_task_in_progress_at_the_checkpoint_is_pending_after_it(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.json"
    store = tasks()
    store.tasks["a"].status = TaskStatus.IN_PROGRESS
    CheckpointingOrchestrator(store, FakeExecutor(), checkpoint_path=path).save_checkpoint()
    fresh = InMemoryTaskStore()
    restored = CheckpointingOrchestrator(fresh, FakeExecutor(), checkpoint_path=path)
    assert restored.restore_checkpoint()
    assert fresh.tasks["a"].status is TaskStatus.PENDING


def test_without_a_checkpoint_nothing_is_restored(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.json"
    orchestrator = CheckpointingOrchestrator(tasks(), FakeExecutor(), checkpoint_path=path)
    assert not orchestrator.restore_checkpoint()


@pytest.mark.parametrize("text", ["{", '{"format": 99}', "[]"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "checkpoint.json"
    path.write_text(text)
    orchestrator = CheckpointingOrchestrator(tasks(), FakeExecutor(), checkpoint_path=path)
    with pytest.raises(ValueError, match=r"checkpoint\.json"):
        orchestrator.restore_checkpoint()
