"""One place where what is stored is not what the log adds up to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

_SHOWN_LENGTH_MAX = 200


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A column, or with an empty `column` a whole row, that differs from the log."""

    table: str
    row: str
    """The row's key."""
    column: str
    stored: Any
    """What the table holds; None for a missing row."""
    expected: Any
    """What follows from the log; None for a row that should not exist."""

    def __str__(self) -> str:
        if self.column:
            return (
                f"{self.table} {self.row}: {self.column} is {_shown(self.stored)}, "
                f"the log says {_shown(self.expected)}"
            )
        if self.stored is None:
            return f"{self.table} {self.row}: the row is missing"
        return f"{self.table} {self.row}: the row should not exist"

    def as_dict(self) -> dict[str, Any]:
        """Return the difference as a JSON object."""
        return msgspec.structs.asdict(self)


Row = Mapping[str, Any]


def compare(
    table: str, key: str, stored: Row | None, expected: Row | None
) -> Iterator[Difference]:
    """Yield where a row differs from what it should be; None stands for no row."""
    if stored is None or expected is None:
        if stored is not expected:
            yield Difference(
                table=table,
                row=key,
                column="",
                stored=None if stored is None else dict(stored),
                expected=None if expected is None else dict(expected),
            )
        return
    for column, value in expected.items():
        if not _same(stored.get(column), value):
            yield Difference(
                table=table,
                row=key,
                column=column,
                stored=stored.get(column),
                expected=value,
            )


def _same(stored: Any, expected: Any) -> bool:
    if isinstance(stored, str) != isinstance(expected, str):
        return False
    return bool(stored == expected) and (stored is None) == (expected is None)


def _shown(value: Any) -> str:
    text = repr(value)
    if len(text) <= _SHOWN_LENGTH_MAX:
        return text
    return f"{text[:_SHOWN_LENGTH_MAX]}… ({len(text)} characters)"
