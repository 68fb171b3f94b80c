"""The query for a page of tasks: by which way they are found, and in which order.

There is no index on the status of a task, because a status changes. What does not complete
is in small tables of its own, so a list of it begins there. Whatever else is asked for is
found along the order of creation: there, most tasks are completed ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchd.interfaces import TaskStatus
from orchd.ledger.dialects import Dialect
from orchd.ledger.port import TaskFilter
from orchd.ledger.rows import TASK_COLUMNS, columns

SORTED_MAX = 20_000
"""How many pending tasks are sorted for a list of them. Where there are more, they are met
often enough along the order of creation."""
_COLUMNS = columns(TASK_COLUMNS, "t")
_ORDER = "ORDER BY t.created_at DESC, t.id DESC LIMIT ?"
_ALONG = f"SELECT {_COLUMNS} FROM tasks AS t"
_ASIDE_ORDER = "ORDER BY s.created_at DESC, s.task_id DESC LIMIT ?"
_COMPLETED, _PENDING = TaskStatus.COMPLETED.value, TaskStatus.PENDING.value
_PLACES = {_PENDING: ("ready", "timers"), TaskStatus.IN_PROGRESS.value: ("running",)}
_ASIDE_ONLY = frozenset(
    {TaskStatus.FAILED.value, TaskStatus.CANCELLED.value, TaskStatus.DISCARDED.value}
)


class TaskQuery:
    """The statement that finds a page of tasks, newest first."""

    def __init__(self, dialect: Dialect, wanted: TaskFilter) -> None:
        self._dialect = dialect
        self._statuses = tuple(TaskStatus(status).value for status in wanted.statuses)
        self._conditions: list[str] = []
        self._parameters: list[Any] = []
        self._along = not self._statuses or _COMPLETED in self._statuses
        self._begins_aside = len(self._statuses) == 1 and self._statuses[0] in _ASIDE_ONLY
        self._add_filter(wanted)

    def _add_filter(self, wanted: TaskFilter) -> None:
        given = (
            ("t.queue = ?", wanted.queue),
            ("t.executor = ?", wanted.executor),
            ("t.error_class = ?", wanted.error_class),
            ("t.created_at >= ?", wanted.since),
            ("t.updated_at < ?", wanted.updated_before),
        )
        for condition, value in given:
            if value is not None:
                self._add(condition, value)
        if self._begins_aside:
            self._add("s.status = ?", self._statuses[0])
        if len(self._statuses) == 1:
            self._add("t.status = ?", self._statuses[0])
        elif self._statuses:
            self._add("t.status = ANY(?)", self._dialect.array(self._statuses))

    def _add(self, condition: str, *parameters: Any) -> None:
        self._conditions.append(condition)
        self._parameters += parameters

    def continue_after(self, created_at: int, task_id: str) -> None:
        """Begin after this task."""
        # The first condition follows from the second, and is what an index is used for.
        row, key = ("s", "task_id") if self._begins_aside else ("t", "id")
        self._add(f"{row}.created_at <= ?", created_at)
        self._add(f"({row}.created_at, {row}.{key}) < (?, ?)", created_at, task_id)

    @property
    def counts_first(self) -> bool:
        """Whether it depends on a number of tasks how the page is found."""
        return not self._along and _PENDING in self._statuses

    @property
    def count(self) -> str:
        """Return the statement that counts what would be sorted, as far as it matters."""
        counted = " UNION ALL ".join(
            f"SELECT * FROM (SELECT 1 FROM {place} LIMIT {SORTED_MAX + 1:d}) AS s{number:d}"
            for number, place in enumerate(self._places())
        )
        return f"SELECT count(*) FROM ({counted}) AS found"

    def choose(self, count: int) -> None:
        """Choose the way, given what `count` counted."""
        self._along = count > SORTED_MAX

    def _places(self) -> Sequence[str]:
        """Return the tables that hold the tasks, with what is to be met there."""
        places = (_PLACES.get(status, ()) for status in self._statuses)
        tables = [table for some in places for table in some]
        statuses = ", ".join(f"'{status}'" for status in self._statuses)
        return [*tables, f"aside WHERE status IN ({statuses})"]

    def page(self, limit: int) -> tuple[Any, ...]:
        """Return the statement with its parameters."""
        where = f" WHERE {' AND '.join(self._conditions)} " if self._conditions else " "
        if self._begins_aside:
            text = self._from("aside") + where + _ASIDE_ORDER
        elif self._along:
            text = _ALONG + where + _ORDER
        else:
            parts = (f"SELECT task_id FROM {place}" for place in self._places())
            text = self._from(f"({' UNION '.join(parts)})") + where + _ORDER
        return (text, *self._parameters, limit)

    def _from(self, found: str) -> str:
        # A cross join keeps SQLite to the order of the tables: it knows of neither that it
        # is the smaller one.
        join = "JOIN" if self._dialect.is_postgresql else "CROSS JOIN"
        return f"SELECT {_COLUMNS} FROM {found} AS s {join} tasks AS t ON t.id = s.task_id"
