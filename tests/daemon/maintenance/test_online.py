"""Replay beside an engine that commits all the time.

There is never a false alarm nor a wrong row, and nobody waits for whoever mends.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from orchd.config.settings import Backoff, RetrySettings
from orchd.executors.port import Failure, RunContext, Success
from orchd.ledger.port import ActOnTask, SetQueue
from orchd.maintenance.difference import Difference
from orchd.maintenance.folding import TASKS
from orchd.maintenance.mending import mend_counters, mend_rows
from orchd.maintenance.replay import check, mend
from orchd.system import RealSystem
from orchd.tasks.commands import Cancel
from support.engines import ORIGIN, Harness, ScriptedExecutor, settings_for
from support.tampering import connected, tamper
from support.templates import StateTemplates

SYSTEM = RealSystem()
SECONDS = float(os.environ.get("ORCHD_TEST_ONLINE_SECONDS", "3"))
"""How long to look; `make` targets and the curious make it longer."""
FREEZES = 20
RETRY = RetrySettings(backoff=Backoff(initial_seconds=0.02, jitter=True))


async def _work(context: RunContext) -> Any:
    chance = random.Random(f"{context.task_id}{context.run}")
    await asyncio.sleep(chance.random() * 0.01)
    return Failure(error="no") if chance.random() < 0.3 else Success(output="done")


class Load:
    """An engine that always has something to do, in every way that moves rows."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.submitted = 0

    async def submit_for_ever(self) -> None:
        """Submit tasks: plain, delayed, cancelled; pause and resume their queue."""
        engine = self.harness.engine
        while True:
            number = self.submitted
            now = engine.clock.now()
            more = {"run_at": now + 20_000 * (number % 5)} if number % 3 else {}
            await self.harness.submit(f"t{number:06d}", **more)
            if number % 7 == 0:
                act = ActOnTask(
                    task_id=f"t{number:06d}", command=Cancel(now=now), origin=ORIGIN
                )
                await engine.request(act)
            if number % 50 == 0:
                pause = number % 100 == 0
                await engine.request(
                    SetQueue(name="default", pause=pause, now=now, origin=ORIGIN)
                )
            self.submitted += 1


@asynccontextmanager
async def loaded(url: str) -> AsyncIterator[Load]:
    """Run a busy engine; afterwards it has ended everything."""
    settings = settings_for(url, retry=RETRY, concurrency=8)
    harness = await Harness.open(url, [ScriptedExecutor(_work)], settings=settings)
    load = Load(harness)
    submitting = asyncio.create_task(load.submit_for_ever())
    try:
        yield load
    finally:
        submitting.cancel()
        await asyncio.gather(submitting, return_exceptions=True)
        now = harness.engine.clock.now()
        await harness.engine.request(
            SetQueue(name="default", pause=False, now=now, origin=ORIGIN)
        )
        await harness.settle()
        await harness.close()


def differences(url: str) -> list[Difference]:
    return list(check(url, system=SYSTEM))


async def test_a_check_beside_a_busy_engine_is_never_wrong(database_url: str) -> None:
    looks = 0
    async with loaded(database_url) as load:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline or looks < 3:
            assert await asyncio.to_thread(differences, database_url) == []
            looks += 1
        assert load.submitted > 50
    assert await asyncio.to_thread(differences, database_url) == []


# --- mending under load ---------------------------------------------------------------

FORGERIES = (
    "UPDATE tasks SET priority = priority + 1 WHERE {which}",
    "UPDATE tasks SET description = 'forged' WHERE {which}",
    "UPDATE tasks SET feedback = 'forged' WHERE {which}",
    "UPDATE tasks SET created_at = created_at + 1 WHERE {which}",
    "UPDATE tasks SET status = 'completed', result = 'forged', finished_at = 1,"
    " waiting_reason = NULL, waiting_until = NULL WHERE {which} AND status = 'pending'",
    "DELETE FROM tasks WHERE {which}",
    "DELETE FROM ready",
    "DELETE FROM timers",
    "UPDATE counters SET value = value + 3 WHERE name LIKE 'events/task.s%%'",
)


def forge(connection: sa.Connection, chance: random.Random, submitted: int) -> None:
    """Change something by hand, beside everybody, as PostgreSQL lets its owner."""
    first = chance.randrange(max(1, submitted))
    which = f"id BETWEEN 't{first:06d}' AND 't{first + 3:06d}'"
    statement = chance.choice(FORGERIES).format(which=which)
    connection.exec_driver_sql("SET session_replication_role = replica")
    connection.exec_driver_sql(statement)


@pytest.mark.parametrize("seed", [1])
async def test_mending_beside_a_busy_engine_makes_no_row_wrong(
    postgres_url: str, seed: int
) -> None:
    chance = random.Random(seed)

    def forge_and_mend(submitted: int) -> None:
        with connected(postgres_url) as connection:
            forge(connection, chance, submitted)
        list(mend(postgres_url, system=SYSTEM))

    async with loaded(postgres_url) as load:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            await asyncio.to_thread(forge_and_mend, load.submitted)
        submitted = load.submitted
        await asyncio.to_thread(lambda: list(mend(postgres_url, system=SYSTEM)))
    assert await asyncio.to_thread(differences, postgres_url) == []
    with connected(postgres_url) as connection:
        statuses = connection.exec_driver_sql(
            "SELECT status, count(*) FROM tasks GROUP BY status"
        ).all()
    counts = {status: number for status, number in statuses}
    assert sum(counts.values()) >= submitted
    # The one that was being submitted when the load ended may have been cut short.
    assert counts.get("pending", 0) + counts.get("in_progress", 0) == 0


async def test_a_daemon_on_sqlite_mends_between_its_commits(sqlite_url: str) -> None:
    async with loaded(sqlite_url) as load:
        store: Any = load.harness.ledger
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            keys = [f"t{number:06d}" for number in range(load.submitted)]
            left = await asyncio.to_thread(
                mend_rows, store.store, SYSTEM, TASKS, keys[-200:]
            )
            assert left == []
            await asyncio.to_thread(mend_counters, store.store, SYSTEM)
    assert await asyncio.to_thread(differences, sqlite_url) == []


# --- a mender that stands still -------------------------------------------------------

MENDER = (
    "import sys; from orchd.maintenance.replay import mend, Options;"
    "from orchd.system import RealSystem;"
    "sys.exit(not list(mend(sys.argv[1], system=RealSystem(), options=Options(jobs=1))))"
)
SESSIONS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
# Whoever has changed or locked a row has a transaction id, and holds it until its end.
IN_A_CHANGE = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT pid = ANY(%s)"
)


def test_a_mender_that_is_frozen_at_any_moment_holds_no_lock(
    large_states: StateTemplates, tmp_path: Path
) -> None:
    chance = random.Random(1)
    freezes = 0
    with large_states.copy("postgresql", tmp_path) as url:
        tamper(url, "UPDATE tasks SET priority = 9 WHERE id LIKE ?", ("%3",))
        with psycopg.connect(url, autocommit=True) as watcher:
            others = [row[0] for row in watcher.execute(SESSIONS)]
            mender = subprocess.Popen((sys.executable, "-c", MENDER, url))
            while mender.poll() is None:
                mender.send_signal(signal.SIGSTOP)
                began = watcher.execute(SESSIONS).rowcount > len(others)
                _wait_until_nothing_is_held(watcher, others)
                mender.send_signal(signal.SIGCONT)
                freezes += began
                time.sleep(chance.random() * 0.01)
        assert mender.returncode == 0
        assert freezes >= FREEZES
        assert differences(url) == []


def _wait_until_nothing_is_held(watcher: Any, others: list[int]) -> None:
    # A statement that was sent is carried out all the same.
    deadline = time.monotonic() + 10
    while watcher.execute(IN_A_CHANGE, (others,)).fetchone()[0]:
        assert time.monotonic() < deadline, "a frozen mender holds a lock"
