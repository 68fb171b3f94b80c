"""What derives from the rows of tasks: what is ready, what waits for its time, depths."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from typing import TypeAlias

from orchd.interfaces import TaskStatus
from orchd.tasks.state import TaskState

ReadyKey: TypeAlias = tuple[int, int, str]
"""Negative priority, since when it is ready, task id: the order of claims."""


class Schedule:
    """Follows the rows, as the triggers of a database do.

    A pending task that waits for nothing is ready; one that waits for an instant has a
    timer; a claim promotes what is due, which touches neither the row nor the log.
    """

    def __init__(self) -> None:
        self.ready: list[ReadyKey] = []
        self.timers: dict[str, int] = {}
        self.depth: Counter[tuple[str, TaskStatus]] = Counter()
        self._keys: dict[str, ReadyKey] = {}

    def moved(self, before: TaskState | None, after: TaskState) -> None:
        """Follow one row from one commit to the next."""
        if before is None or before.status is not after.status:
            self.depth[after.queue, after.status] += 1
            if before is not None:
                self.depth[before.queue, before.status] -= 1
        if before is not None and _place(before) == _place(after):
            return
        self._forget(after.id)
        if after.status is not TaskStatus.PENDING:
            return
        if after.waiting_reason is None:
            self._make_ready(after, after.updated_at)
        elif after.waiting_until is not None:
            self.timers[after.id] = after.waiting_until

    def promote(self, now: int, tasks: dict[str, TaskState]) -> None:
        """Make ready what was due at an instant."""
        due = [(at, task_id) for task_id, at in self.timers.items() if at <= now]
        for at, task_id in due:
            del self.timers[task_id]
            self._make_ready(tasks[task_id], at)

    def is_ready(self, task_id: str) -> bool:
        """Tell whether a task is ready."""
        return task_id in self._keys

    def ready_since(self, task_id: str) -> int:
        """Return since when a ready task has been ready."""
        return self._keys[task_id][1]

    def _make_ready(self, state: TaskState, since: int) -> None:
        key = (-state.priority, since, state.id)
        self._keys[state.id] = key
        insort(self.ready, key)

    def _forget(self, task_id: str) -> None:
        self.timers.pop(task_id, None)
        key = self._keys.pop(task_id, None)
        if key is not None:
            del self.ready[bisect_left(self.ready, key)]


def _place(state: TaskState) -> tuple[object, ...]:
    return (state.status, state.waiting_reason, state.waiting_until)
