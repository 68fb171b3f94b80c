"""Tasks in progress under a worker that has no lease, as after a restore, are taken up."""

from __future__ import annotations

import asyncio
from typing import Any

from orchd.executors.port import RunContext
from orchd.interfaces import TaskStatus
from orchd.ledger.opening import open_ledger
from orchd.ledger.port import WorkerView
from orchd.system import RealSystem
from support.engines import Harness, ScriptedExecutor, settings_for, until
from support.ledgers import Hand
from support.tampering import connected


async def _hang(context: RunContext) -> Any:
    await asyncio.Event().wait()


def _forget(url: str, which: str = "") -> None:
    with connected(url) as connection:
        connection.exec_driver_sql(f"DELETE FROM workers{which}")


async def _left_behind(url: str, tasks: int) -> None:
    """Leave tasks in progress, and no trace of who ran them."""
    executor = ScriptedExecutor(_hang)
    harness = await Harness.open(
        url, [executor], settings=settings_for(url, lease_seconds=1.0)
    )
    for number in range(tasks):
        await harness.submit(f"t{number}")
    await until(lambda: len(executor.calls) == tasks)
    await harness.crash()
    await asyncio.to_thread(_forget, url)


async def test_tasks_of_an_unknown_worker_run_again(database_url: str) -> None:
    await _left_behind(database_url, tasks=3)
    executor = ScriptedExecutor()
    settings = settings_for(database_url, lease_seconds=1.0)
    harness = await Harness.open(database_url, [executor], settings=settings)
    await harness.settle()
    for number in range(3):
        state = await harness.task(f"t{number}")
        assert (state.status, state.runs) == (TaskStatus.COMPLETED, 2)
        assert await harness.event_types(f"t{number}") == [
            *("submitted", "started", "released", "started", "completed")
        ]
    assert [worker.id for worker in await harness.ledger.workers()] == [
        harness.engine.worker_id
    ]
    await harness.close()


async def test_an_unknown_holder_is_listed_as_fenced_and_a_known_one_once(
    database_url: str,
) -> None:
    ledger = open_ledger(
        database_url, system=RealSystem(), access="write", create=True, migrate=True
    )
    hands = [Hand(ledger, name) for name in ("w1", "w2", "w3")]
    for number, hand in enumerate(hands):
        await hand.register()
        for task in range(2):
            await hand.submit(f"t{number}{task}")
        assert len(await hand.claim()) == 2
    await asyncio.to_thread(_forget, database_url, " WHERE id = 'w2'")
    found = await ledger.workers()
    assert {worker.id: worker.fenced for worker in found} == {
        "w1": False,
        "w2": True,
        "w3": False,
    }
    [unknown] = [worker for worker in found if worker.id == "w2"]
    assert isinstance(unknown, WorkerView)
    assert unknown.expires_at == 0
    assert await ledger.fence_worker("w2", only_if_expired=False) is False
    await ledger.retire_worker("w2")
    await ledger.close()
