"""One way to write the ledger's statements for two databases.

Statements are written for PostgreSQL with `?` for a parameter. For SQLite the row locks
are left out, since it has one writer, and arrays become JSON texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import msgspec

Statement = tuple[str, Sequence[Any]]

_ROW_LOCK = re.compile(r"\s+FOR (?:NO KEY )?(?:UPDATE|SHARE)(?: OF \w+)?(?: SKIP LOCKED)?")
_SQLITE_LIST = "(SELECT value FROM json_each(?))"


class Dialect:
    """The differences between the databases that statements have to know."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_postgresql = name == "postgresql"

    def sql(self, text: str) -> str:
        """Return a statement in the driver's own form.

        `= ANY(?)` and `<> ALL(?)` take what `array` returns.
        """
        return _translated(text, self.is_postgresql)

    def array(self, values: Iterable[str]) -> Any:
        """Return names as the parameter of `ANY` or `ALL`."""
        if self.is_postgresql:
            return list(values)
        return msgspec.json.encode(list(values)).decode()

    def subset(self, column: str) -> str:
        """Return the condition that a column's JSON array holds only given names.

        Its parameter is the JSON text of the names.
        """
        if self.is_postgresql:
            return f"{column}::jsonb <@ ?::jsonb"
        return (
            f"NOT EXISTS (SELECT 1 FROM json_each({column}) AS e"
            f" WHERE e.value NOT IN {_SQLITE_LIST})"
        )


@lru_cache(maxsize=256)
def _translated(text: str, postgresql: bool) -> str:
    if postgresql:
        arrays = text.replace("ANY(?)", "ANY(?::text[])").replace(
            "ALL(?)", "ALL(?::text[])"
        )
        return arrays.replace("?", "%s")
    lists = text.replace("= ANY(?)", f"IN {_SQLITE_LIST}")
    return _ROW_LOCK.sub("", lists.replace("<> ALL(?)", f"NOT IN {_SQLITE_LIST}"))


SQLITE = Dialect("sqlite")
POSTGRESQL = Dialect("postgresql")
