"""The raw anchor on PostgreSQL: the whole life of tasks in hand-written SQL, nothing else.

Two tables that anybody would make, one connection of asyncpg, batches of 100: a commit that
submits, one that claims and one that completes, each with its event. It measures the
machine at this minute rather than any product.

    python -m peers.anchors.postgres SECONDS     ($BENCH_URL names the database)
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time

import asyncpg
import uvloop

from peers.protocol import payload, result, say, state_url

BATCH_TASKS = 100
SCHEMA = """
CREATE TABLE events (
  position bigserial PRIMARY KEY, stream text NOT NULL, version int NOT NULL,
  type text NOT NULL, data jsonb NOT NULL, meta jsonb,
  recorded_at timestamptz NOT NULL DEFAULT now(), UNIQUE (stream, version)
);
CREATE TABLE tasks (
  id text PRIMARY KEY, status text NOT NULL, priority int NOT NULL DEFAULT 0,
  run_at timestamptz NOT NULL DEFAULT now(), attempts int NOT NULL DEFAULT 0,
  version int NOT NULL DEFAULT 1, holder text, held_until timestamptz, payload jsonb,
  result jsonb
) WITH (fillfactor = 70);
CREATE INDEX tasks_order ON tasks (priority DESC, run_at, id) WHERE status = 'pending';
"""
SUBMIT = """
WITH made AS (
  INSERT INTO tasks (id, status, payload)
  SELECT i.id, 'pending', i.body::jsonb FROM unnest($1::text[], $2::text[]) AS i(id, body)
  RETURNING id, payload
)
INSERT INTO events (stream, version, type, data)
SELECT id, 1, 'submitted', payload FROM made
"""
CLAIM = """
WITH chosen AS (
  SELECT id FROM tasks WHERE status = 'pending' AND run_at <= now()
  ORDER BY priority DESC, run_at, id LIMIT $1 FOR UPDATE SKIP LOCKED
), begun AS (
  UPDATE tasks AS t SET status = 'running', attempts = attempts + 1,
    version = version + 1, holder = 'w', held_until = now() + interval '30s'
  FROM chosen WHERE t.id = chosen.id RETURNING t.id, t.version, t.payload
), noted AS (
  INSERT INTO events (stream, version, type, data)
  SELECT id, version, 'started', '{"worker": "w"}' FROM begun
)
SELECT id, payload::text FROM begun
"""
COMPLETE = """
WITH ended AS (
  UPDATE tasks AS t SET status = 'completed', version = version + 1, holder = NULL,
    held_until = NULL, result = d.result::jsonb
  FROM unnest($1::text[], $2::text[]) AS d(id, result)
  WHERE t.id = d.id AND t.status = 'running' RETURNING t.id, t.version, t.result
)
INSERT INTO events (stream, version, type, data)
SELECT id, version, 'completed', result FROM ended
"""


async def lifecycles(seconds: float) -> int:
    """Return how many tasks went through their whole life in that time."""
    connection = await asyncpg.connect(state_url())
    await connection.execute(SCHEMA)
    submit, claim, complete = [
        await connection.prepare(text) for text in (SUBMIT, CLAIM, COMPLETE)
    ]
    numbers, done = itertools.count(), 0
    bodies = [json.dumps(payload(number)) for number in range(BATCH_TASKS)]
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        ids = [f"{os.getpid():08x}{next(numbers):018x}" for _ in range(BATCH_TASKS)]
        await submit.fetch(ids, bodies)
        claimed = await claim.fetch(BATCH_TASKS)
        results = [json.dumps(result({"n": done})) for _ in claimed]
        await complete.fetch([row[0] for row in claimed], results)
        done += len(claimed)
    await connection.close()
    return done


if __name__ == "__main__":
    began = time.perf_counter()
    wanted = float(sys.argv[1])
    say({"count": uvloop.run(lifecycles(wanted)), "seconds": wanted})
