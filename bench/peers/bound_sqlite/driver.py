"""The bound on SQLite: one transaction a commit, in the process that executes.

`bound.py` says what it does and what it leaves out. The file is opened as orchd opens it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from orchd_eventstore.sqlite import driver
from peers.bound import (
    BATCH_TASKS,
    MAX_ATTEMPTS,
    WORKER,
    Completion,
    completions,
    meta,
    micros,
    new_id,
    started_data,
    submission,
)
from peers.protocol import Payload, Peer, run, state_url

PATH = state_url().removeprefix("sqlite:///")
PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "foreign_keys = ON",
    "secure_delete = FAST",
    "wal_autocheckpoint = 1000",
)
INSERT_TASK = f"""
INSERT INTO tasks (id, version, namespace, status, phase, queue, priority, executor,
  verifiers, description, payload, body_hash, max_attempts, created_at, updated_at, run_at,
  round, runs, attempts, crashes, deferrals, verify_errors, passed_verifiers, alone,
  cancel_requested)
VALUES (?1, 1, 'default', 'pending', 'execute', 'default', 0, ?2, '[]', ?2, ?3, ?4,
  {MAX_ATTEMPTS}, ?5, ?5, ?5, 1, 0, 0, 0, 0, 0, '[]', 0, 0)
"""
CLAIM = """
SELECT t.id, t.version + 1, t.description, t.payload
FROM ready AS r JOIN tasks AS t ON t.id = r.task_id
ORDER BY r.priority DESC, r.ready_at, r.task_id LIMIT ?
"""
START = """
UPDATE tasks SET version = ?1, status = 'in_progress', runs = runs + 1,
  attempts = attempts + 1, token = ?1, worker = ?2, started_at = ?3, updated_at = ?3
WHERE id = ?4 AND version = ?1 - 1
"""
COMPLETE = """
UPDATE tasks SET version = ?1 + 1, status = 'completed', updated_at = ?2,
  passed_verifiers = '[]', token = NULL, worker = NULL, started_at = NULL, deadline = NULL,
  result = ?3, finished_at = ?2
WHERE id = ?4 AND version = ?1
"""
INSERT_EVENT = """
INSERT INTO events (position, stream, version, type, data, meta, recorded_at)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""
INSERT_COMMIT = """
INSERT INTO commits (last_position, command_id, events, recorded_at, hash, rules)
VALUES (?, ?, ?, ?, ?, 2)
"""
MOVE_HEAD = "UPDATE log_head SET position = ?, hash = ?, recorded_at = ? WHERE id = 1"
COUNT = """
INSERT INTO counters (name, value) VALUES (?, ?)
ON CONFLICT (name) DO UPDATE SET value = value + excluded.value
"""
DONE = "SELECT value FROM counters WHERE name = 'queue/default/completed'"
IDLE_SECONDS = 0.01

Event = tuple[str, int, str, str]
"""Stream, version, type and data."""


def connect() -> Any:
    """Open the file as durably as orchd does."""
    connection = driver().connect(PATH, isolation_level=None, timeout=5)
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}").fetchall()
    return connection


def write_all(connection: Any, statement: str, rows: Sequence[Sequence[Any]]) -> None:
    """Change a row for each of `rows`; whoever has lost its token is an error here."""
    changed = connection.executemany(statement, rows).rowcount if rows else 0
    if changed != len(rows):
        raise RuntimeError(f"{len(rows) - changed} of {len(rows)} rows had moved")


def log(
    connection: Any,
    command: str,
    noted: str,
    events: Sequence[Event],
    counts: Mapping[str, int],
) -> None:
    """Append the events of a commit, chain it and move the head."""
    head = connection.execute("SELECT position, hash FROM log_head").fetchone()
    position, previous = head
    stamp = micros()
    recorded_at = datetime.fromtimestamp(stamp / 1e6, UTC).isoformat(
        timespec="microseconds"
    )
    recorded_at = recorded_at.replace("+00:00", "Z")
    stamp = round(datetime.fromisoformat(recorded_at).timestamp() * 1e6)
    frame = [f"1:2,{len(command)}:{command},{len(str(stamp))}:{stamp},"]
    rows = []
    for place, (stream, version, type_, data) in enumerate(events, position + 1):
        hashed = hashlib.sha256(data.encode()).hexdigest()
        frame.append(
            f"{len(str(place))}:{place},{len(stream)}:{stream},{len(str(version))}:{version},"
            f"{len(type_)}:{type_},64:{hashed},{len(noted)}:{noted},"
        )
        rows.append((place, stream, version, type_, data, noted, recorded_at))
    digest = hashlib.sha256("".join(frame).encode()).hexdigest()
    chained = hashlib.sha256((previous + digest).encode()).hexdigest()
    last = position + len(rows)
    connection.executemany(INSERT_EVENT, rows)
    connection.execute(INSERT_COMMIT, (last, command, len(rows), recorded_at, chained))
    connection.execute(MOVE_HEAD, (last, chained, recorded_at))
    connection.executemany(COUNT, [(name, n) for name, n in counts.items() if n])


class BoundSqlite(Peer):
    """Hand-written SQL on orchd's schema."""

    async def open(self) -> None:
        self._connection = connect()

    async def enqueue(self, kind: str, payloads: Sequence[Payload]) -> None:
        tasks = [submission(kind, given) for given in payloads]
        command, now = new_id(), micros()
        rows = [(t.id, t.description, t.payload, t.body_hash, now) for t in tasks]
        events = [(f"task-{t.id}", 1, "task.submitted", t.data) for t in tasks]
        counts = dict.fromkeys(
            ("events/task.submitted", "queue/default/pending"), len(tasks)
        )
        self._connection.execute("BEGIN IMMEDIATE")
        write_all(self._connection, INSERT_TASK, rows)
        log(self._connection, command, meta("http", now, command), events, counts)
        self._connection.execute("COMMIT")

    async def enqueue_one(self, kind: str, given: Payload) -> None:
        await self.enqueue(kind, [given])

    async def count_done(self) -> int:
        row = self._connection.execute(DONE).fetchone()
        return int(row[0]) if row else 0

    def work(self) -> None:
        connection = connect()
        ended: list[Completion] = []
        while True:
            ended = completions(step(connection, ended))
            if not ended:
                time.sleep(IDLE_SECONDS)


def step(connection: Any, ended: Sequence[Completion]) -> list[tuple[str, int, str, str]]:
    """End what was executed and start others, in one commit."""
    command, now = new_id(), micros()
    connection.execute("BEGIN IMMEDIATE")
    write_all(connection, COMPLETE, [(e.token, now, e.result, e.id) for e in ended])
    claimed: list[tuple[str, int, str, str]] = connection.execute(
        CLAIM, (BATCH_TASKS,)
    ).fetchall()
    write_all(connection, START, [(c[1], WORKER, now, c[0]) for c in claimed])
    events: list[Event] = [
        (f"task-{e.id}", e.token + 1, "task.completed", e.data) for e in ended
    ]
    events += [(f"task-{c[0]}", c[1], "task.started", started_data(c[1])) for c in claimed]
    if events:
        counts = {
            "events/task.completed": len(ended),
            "events/task.started": len(claimed),
            "queue/default/completed": len(ended),
            "queue/default/in_progress": len(claimed) - len(ended),
            "queue/default/pending": -len(claimed),
        }
        log(connection, command, meta("worker", now, command), events, counts)
    connection.execute("COMMIT")
    return claimed


if __name__ == "__main__":
    run(BoundSqlite())
