"""Orchestrators that do more: several tasks at once, and checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchd.embedded.components import SimpleCircuitBreaker
from orchd.embedded.files import write_atomically
from orchd.embedded.lifecycle import OrchestratorStats
from orchd.embedded.orchestrator import Orchestrator
from orchd.embedded.stores import task_from_dict, task_to_dict
from orchd.interfaces import ExecutionResult, Task, TaskStatus

CHECKPOINT_FORMAT = 1


class ParallelOrchestrator(Orchestrator):
    """Runs up to `max_workers` tasks at once.

    Executors that block run in threads; the store, the hooks and the safety check are
    still called by one thread, one call at a time.

    Raises:
        ValueError: `max_workers` is below 1.
    """

    def __init__(self, *args: Any, max_workers: int = 3, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if max_workers < 1:
            raise ValueError(f"max_workers must be at least 1, got {max_workers}")
        self.max_workers = max_workers
        self._workers = max_workers


class CheckpointingOrchestrator(Orchestrator):
    """Writes a checkpoint after every run of a task, and can go on from one.

    A checkpoint holds the figures of the run, the state of a `SimpleCircuitBreaker` and
    the tasks: all of a store that keeps them in a mapping `tasks`, else those that were
    touched. It is replaced atomically. For a store that is durable itself only the
    figures matter.

    Args:
        checkpoint_path: the file of the checkpoint.
    """

    def __init__(
        self, *args: Any, checkpoint_path: str | Path = "checkpoint.json", **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.checkpoint_path = Path(checkpoint_path)
        self._touched: dict[str, Task] = {}

    def _settled(self, task: Task, event: str, result: ExecutionResult | None) -> None:
        self._touched[task.id] = task
        self.save_checkpoint()
        super()._settled(task, event, result)

    def save_checkpoint(self) -> None:
        """Write the present state to `checkpoint_path`.

        Raises:
            OSError: the file cannot be written.
            TypeError: a task's metadata cannot be stored as JSON.
        """
        document = {
            "format": CHECKPOINT_FORMAT,
            "stats": {
                key: value
                for key, value in self.stats.to_dict().items()
                if key != "elapsed_seconds"
            },
            "safety": _breaker_counts(self.safety),
            "tasks": [task_to_dict(task) for task in self._known_tasks()],
        }
        write_atomically(self.checkpoint_path, json.dumps(document, indent=2))

    def restore_checkpoint(self) -> bool:
        """Bring the store, the figures and the breaker to the checkpoint's state.

        Tasks that were in progress become pending. Returns False when there is no
        checkpoint.

        Raises:
            ValueError: the file is no checkpoint of this format.
        """
        if not self.checkpoint_path.exists():
            return False
        document = self._read()
        for entry in document["tasks"]:
            self._restore_task(task_from_dict(entry))
        self.stats = OrchestratorStats(**document["stats"])
        if isinstance(self.safety, SimpleCircuitBreaker):
            vars(self.safety).update(document["safety"])
        return True

    def _read(self) -> dict[str, Any]:
        try:
            document = json.loads(self.checkpoint_path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.checkpoint_path} is no checkpoint: {error}") from error
        found = document.get("format") if isinstance(document, dict) else None
        if found != CHECKPOINT_FORMAT:
            raise ValueError(
                f"{self.checkpoint_path} has format {found!r}, not {CHECKPOINT_FORMAT}"
            )
        return dict(document)

    def _known_tasks(self) -> list[Task]:
        mapping = getattr(self.task_store, "tasks", None)
        if isinstance(mapping, dict):
            return list(mapping.values())
        found = (self.task_store.get_task(task_id) for task_id in self._touched)
        return [task for task in found if task is not None]

    def _restore_task(self, task: Task) -> None:
        if task.status is TaskStatus.IN_PROGRESS:
            task.status = TaskStatus.PENDING
        mapping = getattr(self.task_store, "tasks", None)
        if isinstance(mapping, dict):
            mapping[task.id] = task
            return
        self._catch_up(task)

    def _catch_up(self, task: Task) -> None:
        # Only through the store's own methods: its way to store things is its secret.
        present = self.task_store.get_task(task.id)
        if present is None:
            return
        for _ in range(task.attempts - present.attempts):
            self.task_store.increment_attempts(task.id)
        if task.result is not None and present.result != task.result:
            self.task_store.save_result(task.id, task.result)
        if present.status is not task.status:
            self.task_store.update_status(task.id, task.status)


def _breaker_counts(safety: object) -> dict[str, Any]:
    if not isinstance(safety, SimpleCircuitBreaker):
        return {}
    return {
        "iterations": safety.iterations,
        "consecutive_failures": safety.consecutive_failures,
        "stop_reason": safety.stop_reason,
    }
