"""The state of a storm, read from its tables beside the daemons."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from typing import Any, NamedTuple

import psycopg

LIVE = ("pending", "in_progress")
TASK_COLUMNS = (
    *("id", "status", "runs", "attempts", "max_attempts", "crashes", "result"),
    *("error_class", "waiting_reason", "worker", "queue"),
)
BUSY_SECONDS = 30.0
POLL_SECONDS = 0.1


class Event(NamedTuple):
    """A row of `events`."""

    position: int
    stream: str
    version: int
    type: str
    data: dict[str, Any]
    meta: dict[str, Any]


class Held(NamedTuple):
    """A task in progress."""

    task: str
    token: int
    run: int


class State:
    """Queries a database, SQLite or PostgreSQL; each query on a connection of its own."""

    def __init__(self, database: str) -> None:
        self.database = database
        self._is_sqlite = database.startswith("sqlite")

    def query(self, text: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query whose parameters are marked with `?`."""
        if self._is_sqlite:
            return self._query_sqlite(text, parameters)
        with psycopg.connect(self.database, autocommit=True) as connection:
            marked = text.replace("?", "%s").encode()
            return connection.execute(marked, parameters or None).fetchall()

    def _query_sqlite(self, text: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        path = self.database.removeprefix("sqlite:///")
        with closing(
            sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=BUSY_SECONDS)
        ) as connection:
            return connection.execute(text, parameters).fetchall()

    def refusal_of(self, change: str) -> str:
        """Return what the database says to a change that is undone; empty if nothing."""
        path = self.database.removeprefix("sqlite:///")
        connection: Any = (
            sqlite3.connect(path, timeout=BUSY_SECONDS)
            if self._is_sqlite
            else psycopg.connect(self.database)
        )
        with closing(connection):
            try:
                connection.execute(change)
            except (sqlite3.Error, psycopg.Error) as error:
                return str(error)
            finally:
                connection.rollback()
        return ""

    def counts(self) -> Counter[str]:
        """Return status -> number of tasks."""
        return Counter(
            dict(self.query("SELECT status, count(*) FROM tasks GROUP BY status"))
        )

    def live(self) -> int:
        """Return how many tasks can still go on."""
        counts = self.counts()
        return sum(counts[status] for status in LIVE)

    def finished(self) -> int:
        """Return how many tasks are where nothing happens to them any more."""
        return self.counts().total() - self.live()

    def held_by(self, worker: str) -> list[Held]:
        """Return the tasks that a worker has in progress."""
        text = "SELECT id, token, runs FROM tasks WHERE worker = ? AND status = ?"
        return [Held(*row) for row in self.query(text, (worker, "in_progress"))]

    def worker_of(self, pid: int) -> str | None:
        """Return the id under which the daemon with this pid works now."""
        text = "SELECT id FROM workers WHERE pid = ? AND NOT fenced ORDER BY started_at"
        rows = self.query(text, (pid,))
        return str(rows[-1][0]) if rows else None

    def events(self, kind: str | None = None) -> list[Event]:
        """Return the whole log, or its events of one type."""
        columns = "position, stream, version, type, data, meta"
        where, parameters = ("", ()) if kind is None else ("WHERE type = ?", (kind,))
        text = f"SELECT {columns} FROM events {where} ORDER BY position"
        return [
            Event(position, stream, version, name, json.loads(data), json.loads(meta))
            for position, stream, version, name, data, meta in self.query(text, parameters)
        ]

    def histories(self) -> dict[str, list[Event]]:
        """Return task -> its events."""
        found: dict[str, list[Event]] = defaultdict(list)
        for event in self.events():
            if event.stream.startswith("task-"):
                found[event.stream.removeprefix("task-")].append(event)
        return found

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Return the rows of all tasks, by id."""
        rows = self.query(f"SELECT {', '.join(TASK_COLUMNS)} FROM tasks")
        return {row[0]: dict(zip(TASK_COLUMNS, row, strict=True)) for row in rows}

    def wait_until_finished(self, timeout_seconds: float) -> None:
        """Wait until no task can go on; fail when one still can after the timeout."""
        deadline = time.monotonic() + timeout_seconds
        while left := self.live():
            stuck = f"{left} tasks are stuck after {timeout_seconds:g} s: {self.sample()}"
            assert time.monotonic() < deadline, stuck
            time.sleep(POLL_SECONDS)

    def sample(self) -> list[dict[str, Any]]:
        """Return a few of the tasks that can still go on, for messages."""
        return [row for row in self.tasks().values() if row["status"] in LIVE][:5]
