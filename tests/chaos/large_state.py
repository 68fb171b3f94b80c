"""A state as it is after a long time, made in a short one: real tasks, copied by SQL.

Rows and events of the copies are those of tasks that a daemon has worked on, so they add up
as theirs do. The hash of the one commit that holds them is made up.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg

SERIES = {
    "sqlite": "WITH RECURSIVE series(n) AS"
    " (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < {count})",
    "postgresql": "WITH series AS (SELECT n FROM generate_series(1, {count}) AS s(n))",
}
EVENTS = """
INSERT INTO events (position, stream, version, type, data, meta, recorded_at)
{series}
SELECT {base} + (n - 1) * {length} + e.version, 'task-{prefix}' || n, e.version, e.type,
  replace(e.data, '{old}', '{new}'), e.meta, e.recorded_at
FROM series CROSS JOIN events AS e WHERE e.stream = 'task-{original}'
ORDER BY 1"""
TASKS = """
INSERT INTO tasks ({columns})
{series}
SELECT {values} FROM series CROSS JOIN tasks AS t WHERE t.id = '{original}'"""
COUNTERS = (
    "DELETE FROM counters",
    "INSERT INTO counters (name, value)"
    " SELECT 'events/' || type, count(*) FROM events GROUP BY type",
    "INSERT INTO counters (name, value) SELECT 'queue/' || queue || '/' || status,"
    " count(*) FROM tasks GROUP BY queue, status",
)
HEAD = (
    "INSERT INTO commits (last_position, command_id, events, recorded_at, hash, rules)"
    " SELECT {last}, 'large', {added}, recorded_at, '{digest}', 2 FROM log_head",
    "UPDATE log_head SET position = {last}, hash = '{digest}'",
)


class Copier:
    """Copies tasks of a state that no daemon works on."""

    def __init__(self, connection: Any, kind: str) -> None:
        self._connection = connection
        self._series = SERIES[kind]
        self._first = self._last = int(self._one("SELECT position FROM log_head"))
        cursor = connection.execute("SELECT * FROM tasks LIMIT 0")
        self._columns = [column[0] for column in cursor.description]

    def _one(self, query: str) -> Any:
        return self._connection.execute(query).fetchone()[0]

    def copy(self, original: str, prefix: str, count: int, *, old: str, new: str) -> None:
        """Make `count` copies of a task whose description says `new` and not `old`."""
        series = self._series.format(count=count)
        stream = f"task-{original}"
        length = int(self._one(f"SELECT count(*) FROM events WHERE stream = '{stream}'"))
        names = {"series": series, "original": original, "prefix": prefix}
        self._connection.execute(
            EVENTS.format(base=self._last, length=length, old=old, new=new, **names)
        )
        changed = {"id": f"'{prefix}' || n", "description": f"'{new}'"}
        columns = ", ".join(f'"{name}"' for name in self._columns)
        values = ", ".join(changed.get(name, f't."{name}"') for name in self._columns)
        self._connection.execute(TASKS.format(columns=columns, values=values, **names))
        self._last += count * length

    def finish(self) -> int:
        """Bring counters and head up to date; return the position of the last event."""
        digest = hashlib.sha256(b"large").hexdigest()
        added = self._last - self._first
        for statement in (*COUNTERS, *HEAD):
            self._connection.execute(
                statement.format(last=self._last, added=added, digest=digest)
            )
        self._connection.commit()
        return self._last


@contextmanager
def copier(database: str) -> Iterator[Copier]:
    """Give what copies tasks within a state."""
    kind = database.partition(":")[0]
    connection: Any
    if kind == "sqlite":
        connection = sqlite3.connect(database.removeprefix("sqlite:///"))
    else:
        connection = psycopg.connect(database)
    with closing(connection):
        yield Copier(connection, kind)
