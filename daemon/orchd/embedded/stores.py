"""Task stores for embedded use: in memory, in a JSON file, and by priority."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchd.embedded.files import write_atomically
from orchd.interfaces import Task, TaskStatus, TaskStore


class _MappingTaskStore(TaskStore):
    """What all stores share that keep their tasks in a dictionary, in order."""

    def __init__(self, tasks: list[Task] | None = None) -> None:
        self.tasks: dict[str, Task] = {task.id: task for task in tasks or ()}

    def get_next(self) -> Task | None:
        """Return the pending task that was added first, or None."""
        for task in self.tasks.values():
            if task.status is TaskStatus.PENDING:
                return task
        return None

    def has_pending(self) -> bool:
        """Tell whether any task is pending."""
        return any(t.status is TaskStatus.PENDING for t in self.tasks.values())

    def update_status(self, task_id: str, status: TaskStatus) -> None:
        """Set the status of a task; an unknown id is ignored."""
        if task_id in self.tasks:
            self.tasks[task_id].status = status
            self._changed()

    def save_result(self, task_id: str, result: str) -> None:
        """Keep the result of a task; an unknown id is ignored."""
        if task_id in self.tasks:
            self.tasks[task_id].result = result
            self._changed()

    def increment_attempts(self, task_id: str) -> None:
        """Count one more attempt; an unknown id is ignored."""
        if task_id in self.tasks:
            self.tasks[task_id].attempts += 1
            self._changed()

    def get_task(self, task_id: str) -> Task | None:
        """Return the store's own task object, or None."""
        return self.tasks.get(task_id)

    def _changed(self) -> None:
        """Called after each change."""


class InMemoryTaskStore(_MappingTaskStore):
    """Tasks in memory, gone with the process."""

    def add(self, task_id: str, description: str) -> Task:
        """Add a pending task; one with the same id is replaced."""
        task = Task(id=task_id, description=description)
        self.tasks[task_id] = task
        return task


class PriorityTaskStore(_MappingTaskStore):
    """Hands out the pending task with the highest `metadata["priority"]`, 0 without.

    Among equals the one that was added first comes first.
    """

    def add(self, task_id: str, description: str, priority: float = 0) -> Task:
        """Add a pending task with its priority; one with the same id is replaced."""
        task = Task(id=task_id, description=description, metadata={"priority": priority})
        self.tasks[task_id] = task
        return task

    def get_next(self) -> Task | None:
        """Return the most urgent pending task, or None."""
        pending = (t for t in self.tasks.values() if t.status is TaskStatus.PENDING)
        return max(pending, key=_priority, default=None)


def _priority(task: Task) -> float:
    priority = task.metadata.get("priority", 0)
    return float(priority) if isinstance(priority, int | float) else 0.0


class JSONTaskStore(_MappingTaskStore):
    """Tasks in a JSON file, replaced as a whole and atomically with each change.

    For one process at a time. Tasks that were in progress when the file was read were cut
    off by a crash; an orchestrator makes them pending when it begins to run.

    Args:
        filepath: need not exist yet.

    Raises:
        ValueError: the file holds no tasks in this form.
    """

    def __init__(self, filepath: str | Path = "tasks.json") -> None:
        super().__init__()
        self.filepath = Path(filepath)
        self._load()
        self._interrupted = {
            t.id for t in self.tasks.values() if t.status is TaskStatus.IN_PROGRESS
        }

    def add(self, description: str, **kwargs: Any) -> Task:
        """Add a task under the next free id (`task-001`, …).

        Args:
            kwargs: further fields of `Task`, such as `metadata`.
        """
        number = len(self.tasks) + 1
        while f"task-{number:03d}" in self.tasks:
            number += 1
        task = Task(id=f"task-{number:03d}", description=description, **kwargs)
        self.tasks[task.id] = task
        self._save()
        return task

    def requeue_interrupted(self) -> None:
        """Make pending what was in progress when the file was read; once."""
        interrupted, self._interrupted = self._interrupted, set()
        for task_id in sorted(interrupted & self.tasks.keys()):
            if self.tasks[task_id].status is TaskStatus.IN_PROGRESS:
                self.update_status(task_id, TaskStatus.PENDING)

    def _changed(self) -> None:
        self._save()

    def _load(self) -> None:
        if not self.filepath.exists():
            return
        try:
            document = json.loads(self.filepath.read_text(encoding="utf-8"))
            tasks = [task_from_dict(entry) for entry in document.get("tasks", ())]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.filepath} does not hold tasks ({error!r}); repair or remove it"
            ) from error
        self.tasks = {task.id: task for task in tasks}

    def _save(self) -> None:
        entries = [task_to_dict(task) for task in self.tasks.values()]
        write_atomically(self.filepath, json.dumps({"tasks": entries}, indent=2))


def task_to_dict(task: Task) -> dict[str, Any]:
    """Return a task as it stands in a JSON file."""
    return {
        "id": task.id,
        "description": task.description,
        "status": task.status.value,
        "result": task.result,
        "attempts": task.attempts,
        "metadata": task.metadata,
    }


def task_from_dict(entry: Mapping[str, Any]) -> Task:
    """Return the task that `task_to_dict` wrote.

    Raises:
        KeyError, ValueError: it lacks an id or a description, or has no known status.
    """
    return Task(
        id=entry["id"],
        description=entry["description"],
        status=TaskStatus(entry.get("status", "pending")),
        result=entry.get("result"),
        attempts=entry.get("attempts", 0),
        metadata=entry.get("metadata", {}),
    )
