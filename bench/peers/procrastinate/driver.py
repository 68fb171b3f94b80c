"""procrastinate: an async worker that is notified; jobs are kept, results are not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import procrastinate
import psycopg

from peers.protocol import NOOP, STAMP, Payload, Peer, noop, run, stamp, state_url

CONCURRENCY = 50
DONE = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"

app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(conninfo=state_url(), min_size=2, max_size=10)
)


@app.task(name=NOOP)
async def noop_task(given: Payload) -> dict[str, Any]:
    """Do nothing."""
    return noop(given)


@app.task(name=STAMP)
async def stamp_task(given: Payload) -> dict[str, Any]:
    """Say when it was started."""
    return stamp(given)


TASKS: dict[str, Any] = {NOOP: noop_task, STAMP: stamp_task}


class ProcrastinatePeer(Peer):
    """procrastinate as its documentation starts it."""

    async def set_up(self) -> None:
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    async def open(self) -> None:
        await app.open_async()
        self._counting = await psycopg.AsyncConnection.connect(state_url(), autocommit=True)

    async def enqueue(self, kind: str, payloads: Sequence[Payload]) -> None:
        await TASKS[kind].batch_defer_async(*[{"given": given} for given in payloads])

    async def enqueue_one(self, kind: str, given: Payload) -> None:
        await TASKS[kind].defer_async(given=given)

    async def count_done(self) -> int:
        cursor = await self._counting.execute(DONE)
        row = await cursor.fetchone()
        return int(row[0]) if row else 0

    def work(self) -> None:
        asyncio.run(self._work())

    async def _work(self) -> None:
        async with app.open_async():
            await app.run_worker_async(concurrency=CONCURRENCY)


if __name__ == "__main__":
    run(ProcrastinatePeer())
