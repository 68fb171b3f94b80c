"""PgQueuer: batches of 100 over a pool of asyncpg, on uvloop.

Finished jobs move to its log as rows of their status; results are not kept.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from peers.protocol import BODIES, Payload, Peer, run, state_url

BATCH_JOBS = 100
DONE = "SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'"


class PgQueuerPeer(Peer):
    """PgQueuer with its fastest driver."""

    async def set_up(self) -> None:
        connection = await asyncpg.connect(state_url())
        await Queries.from_asyncpg_connection(connection).install()
        await connection.close()

    async def open(self) -> None:
        self._connection = await asyncpg.connect(state_url())
        self._queries = Queries.from_asyncpg_connection(self._connection)

    async def enqueue(self, kind: str, payloads: Sequence[Payload]) -> None:
        bodies = [json.dumps(given).encode() for given in payloads]
        await self._queries.enqueue([kind] * len(bodies), bodies, [0] * len(bodies))

    async def enqueue_one(self, kind: str, given: Payload) -> None:
        await self._queries.enqueue(kind, json.dumps(given).encode())

    async def count_done(self) -> int:
        return int(await self._connection.fetchval(DONE))

    def work(self) -> None:
        uvloop.run(self._work())

    async def _work(self) -> None:
        pool = await asyncpg.create_pool(state_url(), min_size=4, max_size=8)
        queue = PgQueuer.from_asyncpg_pool(pool)
        for kind, body in BODIES.items():

            @queue.entrypoint(kind)
            async def execute(job: Job, body=body) -> None:  # type: ignore[no-untyped-def]  # the queue looks at the signature
                body(json.loads(job.payload or b"{}"))

        await queue.run(batch_size=BATCH_JOBS, dequeue_timeout=timedelta(seconds=30))


if __name__ == "__main__":
    run(PgQueuerPeer())
