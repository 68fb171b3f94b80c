"""Writes the rows of a batch into SQLite, with as few statements as that takes.

SQLite prepares the way for every statement anew: its triggers, its place in the journal.
With a statement for each row that was half of what a row costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any

from orchd_eventstore.errors import BatchRejected, InvalidAppend
from orchd_eventstore.events import NO_STREAM, Append
from orchd_eventstore.projection import Projection

ROWS_IN_STATEMENT = (64, 8, 1)
"""How many rows a statement may have, the most first. Nothing else is ever prepared."""

Change = frozenset[str] | None
"""The columns that an update writes; None for all of them."""


class RowWriter:
    """Writes the rows of one projection.

    Its methods take what runs a statement on the connection that writes, and returns the
    cursor.
    """

    def __init__(self, projection: Projection) -> None:
        self._projection = projection
        # For good: the connection keeps what it has prepared by the text itself.
        self._insert = cache(self._insert_text)
        self._update = cache(self._update_text)

    def insert(self, execute: Callable[..., Any], items: Sequence[Append]) -> list[bool]:
        """Insert rows; tell for each whether it was inserted."""
        columns = self._projection.columns
        rows = [self._values(item, columns) for item in items]
        return self._write(execute, items, rows, self._insert)

    def update(
        self, execute: Callable[..., Any], items: Sequence[Append], change: Change
    ) -> list[bool]:
        """Update rows; tell for each whether it had the version that was expected."""
        columns = (*self._columns_of(change), self._projection.key)
        rows = [(*self._values(item, columns), item.expected_version) for item in items]
        return self._write(execute, items, rows, lambda count: self._update(change, count))

    def _write(
        self,
        execute: Callable[..., Any],
        items: Sequence[Append],
        rows: Sequence[Sequence[Any]],
        text: Callable[[int], str],
    ) -> list[bool]:
        written: set[Any] = set()
        for first, count in _parts(len(rows)):
            values = tuple(chain.from_iterable(rows[first : first + count]))
            written.update(key for (key,) in execute(text(count), values).fetchall())
        keys = [self._key_of(item) for item in items]
        if not written.issubset(keys):
            table, key = self._projection.table.name, self._projection.key
            raise InvalidAppend(f"{table}.{key} stores a key as something else")
        return [_take(written, key) for key in keys]

    def _key_of(self, item: Append) -> Any:
        assert item.row is not None
        return item.row[self._projection.key]

    def _values(self, item: Append, columns: tuple[str, ...]) -> Sequence[Any]:
        assert item.row is not None
        values = self._projection.values(item.row, columns)
        require_no_nul(item, values)
        return values

    def _columns_of(self, change: Change) -> tuple[str, ...]:
        columns = self._projection.mutable
        return columns if change is None else tuple(c for c in columns if c in change)

    def _insert_text(self, count: int) -> str:
        table, columns = self._projection.table.name, self._projection.columns
        insertion = _insertion(table, columns, count)
        return f'{insertion} ON CONFLICT DO NOTHING RETURNING "{self._projection.key}"'

    def _update_text(self, change: Change, count: int) -> str:
        table, key, columns = (
            self._projection.table.name,
            self._projection.key,
            self._columns_of(change),
        )
        # SQLite names the columns of VALUES itself: column1, column2, …
        changes = ", ".join(
            f'"{name}" = v.column{place}' for place, name in enumerate(columns, start=1)
        )
        width = len(columns) + 2
        return (
            f"UPDATE {table} SET {changes} FROM (VALUES {_marks(width, count)}) AS v"
            f' WHERE {table}."{key}" = v.column{width - 1}'
            f' AND {table}."version" = v.column{width} RETURNING "{key}"'
        )


def insert_all(
    execute: Callable[..., Any],
    table: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
) -> None:
    """Insert rows into a table; all of them, or it raises."""
    for first, count in _parts(len(rows)):
        text = _insertion(table, tuple(columns), count)
        execute(text, tuple(chain.from_iterable(rows[first : first + count])))


@cache
def _insertion(table: str, columns: tuple[str, ...], count: int) -> str:
    names = ", ".join(f'"{name}"' for name in columns)
    return f"INSERT INTO {table} ({names}) VALUES {_marks(len(columns), count)}"


def _marks(width: int, count: int) -> str:
    row = f"({', '.join('?' * width)})"
    return ", ".join([row] * count)


def _parts(count: int) -> Iterator[tuple[int, int]]:
    """Yield where each statement's rows begin, and how many it has."""
    first = 0
    for size in ROWS_IN_STATEMENT:
        while count - first >= size:
            yield first, size
            first += size


def _take(written: set[Any], key: Any) -> bool:
    # One row is written for one item, whatever the others ask for.
    if key not in written:
        return False
    written.remove(key)
    return True


def require_no_nul(item: Append, values: Sequence[Any]) -> None:
    """Refuse the one character that PostgreSQL refuses, so that both store the same."""
    for value in values:
        if isinstance(value, str) and "\0" in value:
            raise BatchRejected(f"a text of stream {item.stream!r} contains NUL")


def written_rows(
    execute: Callable[..., Any],
    writers: dict[str, RowWriter],
    items: Sequence[Append],
) -> list[bool]:
    """Write the rows of all items that have one; tell for each whether it was written."""
    groups: dict[tuple[str, bool, Change], list[int]] = {}
    for place, item in enumerate(items):
        if item.projection is not None:
            is_new = item.expected_version == NO_STREAM
            group = (item.projection, is_new, None if is_new else item.changed)
            groups.setdefault(group, []).append(place)
    written = [False] * len(items)
    for (name, is_new, change), places in groups.items():
        chosen, writer = [items[place] for place in places], writers[name]
        if is_new:
            outcomes = writer.insert(execute, chosen)
        else:
            outcomes = writer.update(execute, chosen, change)
        for place, outcome in zip(places, outcomes, strict=True):
            written[place] = outcome
    return written
