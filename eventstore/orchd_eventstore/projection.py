"""What the store must know of a table that its user derives from streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchd_eventstore.errors import InvalidAppend
from orchd_eventstore.tables import Table


class Row(Mapping[str, Any]):
    """A row that gives several columns at once, for who makes rows from objects."""

    def take(self, columns: tuple[str, ...]) -> Sequence[Any]:
        """Return the values of these columns, in order."""
        return [self[column] for column in columns]


class Projection:
    """A table with one row per stream, written in the transaction of the events.

    The table has a column `version`, the version of the stream that the row stands for.

    Args:
        name: how an `Append` refers to it.
        table: its declaration; the key names the stream's row.
        immutable: columns that are written when the row is inserted and never after.
        narrow: columns that the commonest change is about. On PostgreSQL an item that
            changes no others, as its `Append.changed` tells, carries only these.
    """

    def __init__(
        self,
        name: str,
        table: Table,
        *,
        immutable: frozenset[str] = frozenset(),
        narrow: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.table = table
        self.key = key = table.columns[0].name
        self.columns = tuple(column.name for column in table.columns)
        self.mutable = tuple(c for c in self.columns if c != key and c not in immutable)
        if "version" not in self.mutable:
            raise InvalidAppend(f"table {table.name} needs a mutable column `version`")
        self.narrow = tuple(c for c in self.mutable if c in narrow)
        self._is_narrow = frozenset(self.narrow).issuperset
        self.keyed_mutable = (key, *self.mutable)
        self.keyed_narrow = (key, *self.narrow)

    def is_narrow(self, changed: frozenset[str] | None) -> bool:
        """Tell whether an update writes only `narrow`; `changed` as in `Append`."""
        return bool(self.narrow) and changed is not None and self._is_narrow(changed)

    def values(self, row: Mapping[str, Any], columns: tuple[str, ...]) -> Sequence[Any]:
        """Return the values of a row in the order of `columns`.

        Raises:
            InvalidAppend: the row lacks a column.
        """
        if isinstance(row, Row):
            return row.take(columns)
        try:
            return [row[column] for column in columns]
        except KeyError as missing:
            raise InvalidAppend(f"a row of {self.name} lacks column {missing}") from None
