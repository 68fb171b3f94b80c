"""huey on SQLite with `synchronous=FULL`: a consumer with two threads, results kept."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from huey import SqliteHuey
from huey.consumer import Consumer

from peers.protocol import NOOP, STAMP, Payload, Peer, noop, run, stamp, state_url

WORKERS = 2
PATH = state_url().removeprefix("sqlite:///")

huey = SqliteHuey("bench", filename=PATH, fsync=True)


@huey.task(name=NOOP)
def noop_task(given: Payload) -> dict[str, Any]:
    """Do nothing."""
    return noop(given)


@huey.task(name=STAMP)
def stamp_task(given: Payload) -> dict[str, Any]:
    """Say when it was started."""
    return stamp(given)


TASKS: dict[str, Any] = {NOOP: noop_task, STAMP: stamp_task}


class HueyPeer(Peer):
    """huey as its documentation starts it; it has no bulk call."""

    async def open(self) -> None:
        huey.storage.initialize_schema()

    async def enqueue(self, kind: str, payloads: Sequence[Payload]) -> None:
        for given in payloads:
            TASKS[kind](given)

    async def enqueue_one(self, kind: str, given: Payload) -> None:
        TASKS[kind](given)

    async def count_done(self) -> int:
        # Every finished task leaves its result.
        with closing(sqlite3.connect(f"file:{PATH}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM kv").fetchone()[0])

    def work(self) -> None:
        Consumer(huey, workers=WORKERS, worker_type="thread").run()


if __name__ == "__main__":
    run(HueyPeer())
