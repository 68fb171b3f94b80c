"""The raw anchor on SQLite, as `postgres.py` beside it, with `synchronous = FULL`.

python -m peers.anchors.sqlite SECONDS       ($BENCH_URL names the file)
"""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
import sys
import time

from peers.protocol import payload, result, say, state_url

BATCH_TASKS = 100
SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA cache_size = -65536;
CREATE TABLE events (
  position INTEGER PRIMARY KEY, stream TEXT NOT NULL, version INT NOT NULL,
  type TEXT NOT NULL, data TEXT NOT NULL, meta TEXT,
  recorded_at REAL NOT NULL DEFAULT (julianday('now')), UNIQUE (stream, version)
);
CREATE TABLE tasks (
  id TEXT PRIMARY KEY, status TEXT NOT NULL, priority INT NOT NULL DEFAULT 0,
  run_at REAL NOT NULL DEFAULT 0, attempts INT NOT NULL DEFAULT 0,
  version INT NOT NULL DEFAULT 1, holder TEXT, held_until REAL, payload TEXT, result TEXT
) WITHOUT ROWID;
CREATE INDEX tasks_order ON tasks (priority DESC, run_at, id) WHERE status = 'pending';
"""
SUBMIT = "INSERT INTO tasks (id, status, payload) VALUES (?, 'pending', ?)"
CLAIM = """
UPDATE tasks SET status = 'running', attempts = attempts + 1, version = version + 1,
  holder = 'w', held_until = ?1
WHERE id IN (SELECT id FROM tasks WHERE status = 'pending' AND run_at <= ?1
  ORDER BY priority DESC, run_at, id LIMIT ?2)
RETURNING id, version, payload
"""
COMPLETE = """
UPDATE tasks SET status = 'completed', version = version + 1, holder = NULL,
  held_until = NULL, result = ? WHERE id = ? AND status = 'running'
"""
EVENT = "INSERT INTO events (stream, version, type, data) VALUES (?, ?, ?, ?)"
STARTED = '{"worker": "w"}'


def submit(connection: sqlite3.Connection, ids: list[str], bodies: list[str]) -> None:
    """Submit tasks in one commit."""
    made = list(zip(ids, bodies, strict=True))
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(SUBMIT, made)
    connection.executemany(EVENT, [(i, 1, "submitted", body) for i, body in made])
    connection.execute("COMMIT")


def claim(connection: sqlite3.Connection) -> list[tuple[str, int, str]]:
    """Claim tasks in one commit."""
    connection.execute("BEGIN IMMEDIATE")
    found = connection.execute(CLAIM, (time.time(), BATCH_TASKS)).fetchall()
    connection.executemany(EVENT, [(row[0], row[1], "started", STARTED) for row in found])
    connection.execute("COMMIT")
    return found


def complete(connection: sqlite3.Connection, claimed: list[tuple[str, int, str]]) -> None:
    """Complete tasks in one commit."""
    ends = [(i, version + 1, json.dumps(result({"n": 1}))) for i, version, _ in claimed]
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(COMPLETE, [(text, i) for i, _, text in ends])
    connection.executemany(EVENT, [(i, v, "completed", text) for i, v, text in ends])
    connection.execute("COMMIT")


def lifecycles(seconds: float) -> int:
    """Return how many tasks went through their whole life in that time."""
    path = state_url().removeprefix("sqlite:///")
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(SCHEMA)
    numbers, done = itertools.count(), 0
    bodies = [json.dumps(payload(number)) for number in range(BATCH_TASKS)]
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        ids = [f"{os.getpid():08x}{next(numbers):018x}" for _ in range(BATCH_TASKS)]
        submit(connection, ids, bodies)
        claimed = claim(connection)
        complete(connection, claimed)
        done += len(claimed)
    connection.close()
    return done


if __name__ == "__main__":
    wanted = float(sys.argv[1])
    say({"count": lifecycles(wanted), "seconds": wanted})
