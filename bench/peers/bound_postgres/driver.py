"""The bound on PostgreSQL: one call of a function of our own a commit, over asyncpg.

`bound.py` says what it does and what it leaves out. Its function takes arrays where
orchd's takes JSON, and knows only this one path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import uvloop

from peers.bound import (
    BATCH_TASKS,
    MAX_ATTEMPTS,
    WORKER,
    Completion,
    completions,
    meta,
    micros,
    new_id,
    submission,
)
from peers.protocol import Payload, Peer, run, state_url

FUNCTIONS = Path(__file__).with_name("functions.sql")
SUBMIT = "SELECT bound_submit($1, $2, $3, $4, $5, $6, $7, $8, $9)"
STEP = "SELECT id, token, description, payload FROM bound_step($1,$2,$3,$4,$5,$6,$7,$8,$9)"
DONE = "SELECT value FROM counters WHERE name = 'queue/default/completed'"
IDLE_SECONDS = 0.01


class BoundPostgres(Peer):
    """Hand-written SQL on orchd's schema."""

    async def set_up(self) -> None:
        connection = await asyncpg.connect(state_url())
        await connection.execute(await asyncio.to_thread(FUNCTIONS.read_text))
        await connection.close()

    async def open(self) -> None:
        self._connection = await asyncpg.connect(state_url())
        self._submit = await self._connection.prepare(SUBMIT)

    async def enqueue(self, kind: str, payloads: Sequence[Payload]) -> None:
        tasks = [submission(kind, given) for given in payloads]
        command, now = new_id(), micros()
        ids, descriptions, bodies, hashes, data = zip(*tasks, strict=True)
        noted = meta("http", now, command)
        columns = (ids, descriptions, bodies, hashes, data)
        await self._submit.fetchval(command, noted, now, MAX_ATTEMPTS, *columns)

    async def enqueue_one(self, kind: str, given: Payload) -> None:
        await self.enqueue(kind, [given])

    async def count_done(self) -> int:
        return int(await self._connection.fetchval(DONE) or 0)

    def work(self) -> None:
        uvloop.run(self._work())

    async def _work(self) -> None:
        connection = await asyncpg.connect(state_url())
        step = await connection.prepare(STEP)
        ended: list[Completion] = []
        while True:
            command, now = new_id(), micros()
            noted = meta("worker", now, command)
            ids = [end.id for end in ended]
            tokens = [end.token for end in ended]
            results = [end.result for end in ended]
            data = [end.data for end in ended]
            known = (command, noted, WORKER, now, ids, tokens, results, data)
            claimed = await step.fetch(*known, BATCH_TASKS)
            ended = completions([tuple(row) for row in claimed])
            if not ended:
                await asyncio.sleep(IDLE_SECONDS)


if __name__ == "__main__":
    run(BoundPostgres())
