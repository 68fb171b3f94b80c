"""absurd: durable tasks in stored procedures of PostgreSQL, an async worker.

Its SQL is not in its package, so `$ORCHD_BENCH_ABSURD_SQL` names the file. There is no
bulk call in the SDK: a chunk is its SQL function over an array, in one transaction.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
from absurd_sdk import AsyncAbsurd

from peers.protocol import NOOP, STAMP, Payload, Peer, noop, run, stamp, state_url

QUEUE = "q"
CONCURRENCY = 50
SPAWN = """
SELECT count(s.task_id) FROM unnest(%s::text[]) AS given,
LATERAL absurd.spawn_task('q', %s, given::jsonb, '{}'::jsonb) AS s
"""
DONE = "SELECT count(*) FROM absurd.t_q WHERE state = 'completed'"


def application() -> Any:
    """Return the SDK with the tasks registered."""
    app = AsyncAbsurd(state_url(), queue_name=QUEUE)

    async def noop_task(given: Payload, context: object) -> dict[str, Any]:
        return noop(given)

    async def stamp_task(given: Payload, context: object) -> dict[str, Any]:
        return stamp(given)

    app.register_task(NOOP)(noop_task)
    app.register_task(STAMP)(stamp_task)
    return app


class AbsurdPeer(Peer):
    """absurd as its documentation starts it."""

    async def set_up(self) -> None:
        sql = await asyncio.to_thread(Path(os.environ["ORCHD_BENCH_ABSURD_SQL"]).read_text)
        with psycopg.connect(state_url(), autocommit=True) as connection:
            connection.execute(sql.encode())
        app = application()
        await app.create_queue(QUEUE)
        await app.close()

    async def open(self) -> None:
        self._app = application()
        self._connection = psycopg.connect(state_url(), autocommit=True)

    async def enqueue(self, kind: str, payloads: Sequence[Payload]) -> None:
        bodies = [json.dumps(given) for given in payloads]
        self._connection.execute(SPAWN, (bodies, kind))

    async def enqueue_one(self, kind: str, given: Payload) -> None:
        await self._app.spawn(kind, given)

    async def count_done(self) -> int:
        row = self._connection.execute(DONE).fetchone()
        return int(row[0]) if row else 0

    def work(self) -> None:
        app = application()
        asyncio.run(app.start_worker(worker_id="bench", concurrency=CONCURRENCY))


if __name__ == "__main__":
    run(AbsurdPeer())
