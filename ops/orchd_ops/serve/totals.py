"""What a daemon did in its life, for its last line."""

from __future__ import annotations

from collections import Counter

from orchd.engine.observer import Observer, TaskNews
from orchd.tasks import events

_NAMES: dict[type[object], str] = {
    events.TaskCompleted: "completed",
    events.TaskFailed: "failed",
    events.TaskCancelled: "cancelled",
    events.TaskRetried: "retried",
    events.TaskReleased: "released",
}


class Totals(Observer):
    """Counts how runs ended."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def task_moved(self, news: TaskNews) -> None:
        """Count the ends of runs among the news."""
        for event in news.events:
            name = _NAMES.get(type(event))
            if name is not None:
                self._counts[name] += 1

    def line(self) -> str:
        """Return the counts as one line."""
        return ", ".join(f"{name} {self._counts[name]}" for name in _NAMES.values())
