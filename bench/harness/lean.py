"""What the same events take when somebody writes them with two tables of their own.

The events of a drained state are copied, type by type and in batches as they came, into an
`events` table that holds the same texts and a `tasks` table with what a task needs at
least. It is what orchd's storage is compared with.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

import psycopg

from harness.servers import SQLITE, Place
from harness.state import connect

BATCH_TASKS = 500
SCHEMA = """
CREATE TABLE events (
  position BIGINT PRIMARY KEY, stream TEXT NOT NULL, version INT NOT NULL,
  type TEXT NOT NULL, data TEXT NOT NULL, meta TEXT NOT NULL,
  recorded_at {instant} NOT NULL, UNIQUE (stream, version)
);
CREATE TABLE tasks (
  id TEXT PRIMARY KEY, status TEXT NOT NULL, priority INT NOT NULL DEFAULT 0,
  run_at BIGINT NOT NULL DEFAULT 0, attempts INT NOT NULL DEFAULT 0, version INT NOT NULL,
  holder TEXT, payload TEXT, result TEXT
);
CREATE INDEX tasks_order ON tasks (priority DESC, run_at, id) WHERE status = 'pending';
"""
STORED = """
SELECT e.position, e.stream, e.version, e.type, e.data, e.meta, e.recorded_at, t.payload,
  t.result
FROM events AS e JOIN tasks AS t ON e.stream = 'task-' || t.id
WHERE e.type = '{type}' ORDER BY e.position
"""
EVENT = (
    "INSERT INTO events (position, stream, version, type, data, meta, recorded_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
STEPS = {
    "task.submitted": (
        "INSERT INTO tasks (payload, version, id, status) VALUES (?, ?, ?, 'pending')"
    ),
    "task.started": (
        "UPDATE tasks SET holder = ?, version = ?, attempts = 1, status = 'running'"
        " WHERE id = ?"
    ),
    "task.completed": (
        "UPDATE tasks SET result = ?, version = ?, holder = NULL, status = 'completed'"
        " WHERE id = ?"
    ),
}
HOLDER = "w"

Row = tuple[Any, ...]


def bytes_per_task(source: str, target: Place, database: str) -> float:
    """Copy the events of `source` into an empty place; return what a task takes there."""
    tasks = 0
    before = target.size_bytes()
    with closing(_opened(target, database)) as lean, closing(connect(source)) as stored:
        mark = "?" if database == SQLITE else "%s"
        for step in STEPS:
            for batch in _batches(stored.execute(STORED.format(type=step))):
                _write(lean, step, batch, mark)
                tasks += len(batch)
    return (target.size_bytes() - before) / (tasks / len(STEPS))


def _opened(target: Place, database: str) -> Any:
    if database == SQLITE:
        path = target.url.removeprefix("sqlite:///")
        connection: Any = sqlite3.connect(path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(SCHEMA.format(instant="TEXT"))
        return connection
    connection = psycopg.connect(target.url)
    connection.execute(SCHEMA.format(instant="TIMESTAMPTZ"))
    return connection


def _write(lean: Any, step: str, batch: list[Row], mark: str) -> None:
    """Write one commit: an event for each task, and its row."""
    cursor = lean.cursor()
    cursor.executemany(EVENT.replace("?", mark), [row[:7] for row in batch])
    value = {"task.submitted": 7, "task.completed": 8}.get(step)
    cursor.executemany(
        STEPS[step].replace("?", mark),
        [
            (HOLDER if value is None else row[value], row[2], row[1].removeprefix("task-"))
            for row in batch
        ],
    )
    lean.commit()


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, BATCH_TASKS)):
        yield batch
