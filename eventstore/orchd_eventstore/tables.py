"""Tables as they are declared: names and types, and nothing that needs a database."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """What a column holds, in the words of PostgreSQL."""

    TEXT = "TEXT"
    NAME = 'TEXT COLLATE "C"'
    """Text that is compared byte by byte on either database, so that both list and claim
    in the same order."""
    INTEGER = "BIGINT"
    NUMBER = "DOUBLE PRECISION"
    FLAG = "BOOLEAN"


class Column(NamedTuple):
    """A column of a table."""

    name: str
    kind: Kind
    is_optional: bool = False


class Table(NamedTuple):
    """A table; the first column is its key."""

    name: str
    columns: tuple[Column, ...]
