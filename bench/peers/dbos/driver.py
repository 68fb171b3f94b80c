"""DBOS Transact on PostgreSQL: async workflows on a queue, polled every second.

Everything is left at its defaults: no bound on concurrency. There is no bulk call, so a
chunk is submitted by eight threads.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
from dbos import DBOS, DBOSClient

from peers.protocol import NOOP, STAMP, Payload, Peer, noop, run, stamp, state_url

QUEUE = "bench"
VERSION = "1"
THREADS = 8
DONE = "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'"


def launch() -> None:
    """Start DBOS in this process."""
    DBOS(
        config={
            "name": "bench",
            "system_database_url": state_url(),
            "log_level": "ERROR",
            "application_version": VERSION,
            "executor_id": "bench",
        }
    )
    DBOS.workflow(name=NOOP)(_noop)
    DBOS.workflow(name=STAMP)(_stamp)
    DBOS.listen_queues([QUEUE])
    DBOS.launch()
    DBOS.register_queue(QUEUE, on_conflict="always_update")


async def _noop(given: Payload) -> dict[str, Any]:
    return noop(given)


async def _stamp(given: Payload) -> dict[str, Any]:
    return stamp(given)


class DbosPeer(Peer):
    """DBOS as its documentation starts it."""

    async def set_up(self) -> None:
        # It refuses to register a queue in a thread that has an event loop.
        await asyncio.to_thread(launch)
        await asyncio.to_thread(DBOS.destroy)

    async def open(self) -> None:
        self._client = DBOSClient(system_database_url=state_url())
        self._threads = ThreadPoolExecutor(THREADS)
        self._counting = psycopg.connect(state_url(), autocommit=True)

    def _submit(self, kind: str, given: Payload) -> None:
        options: Any = {
            "queue_name": QUEUE,
            "workflow_name": kind,
            "app_version": VERSION,
        }
        self._client.enqueue(options, given)

    async def enqueue(self, kind: str, payloads: Sequence[Payload]) -> None:
        list(self._threads.map(lambda given: self._submit(kind, given), payloads))

    async def enqueue_one(self, kind: str, given: Payload) -> None:
        self._submit(kind, given)

    async def count_done(self) -> int:
        row = self._counting.execute(DONE).fetchone()
        return int(row[0]) if row else 0

    def work(self) -> None:
        launch()
        threading.Event().wait()


if __name__ == "__main__":
    run(DbosPeer())
