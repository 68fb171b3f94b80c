"""Whom a worker may declare dead, and what comes before it takes their tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import pytest

from orchd.engine.recovery import SILENT_LOOKS
from orchd.executors.port import ExecutorAnswer, RunContext, Success
from orchd.interfaces import TaskStatus
from orchd.ledger.port import ActOnTask, Census, LedgerUnavailable, Outcome, Request
from orchd.tasks.commands import Recover
from support.engines import Harness, ScriptedExecutor, settings_for, until

LEASE_SECONDS = 1.0


class Pair(NamedTuple):
    """Two engines on one database: the first has gone silent with a task at work."""

    silent: Harness
    other: Harness


async def _hang(context: RunContext) -> ExecutorAnswer:
    await asyncio.Event().wait()
    return Success(output="")


@pytest.fixture
async def pair(postgres_url: str) -> AsyncIterator[Pair]:
    settings = settings_for(postgres_url, lease_seconds=LEASE_SECONDS)
    stuck = ScriptedExecutor(_hang)
    silent = await Harness.open(postgres_url, [stuck], settings=settings)
    other = await Harness.open(
        postgres_url, [ScriptedExecutor()], settings=settings, start=False
    )
    await silent.submit("a")
    await until(lambda: bool(stuck.calls))
    await silent.engine.lease.stop()
    yield Pair(silent, other)
    await silent.crash()
    await other.close()


async def _is_fenced(harness: Harness, worker: str) -> bool:
    return any(each.fenced for each in await harness.ledger.workers() if each.id == worker)


async def test_a_worker_is_fenced_before_its_tasks_are_taken(pair: Pair) -> None:
    dead, other = pair.silent.engine.worker_id, pair.other
    commit = other.ledger.commit
    fenced: list[bool] = []

    async def looked_at(requests: Sequence[Request], *, command_id: str) -> list[Outcome]:
        acts = [r for r in requests if isinstance(r, ActOnTask)]
        if any(isinstance(act.command, Recover) for act in acts):
            fenced.append(await _is_fenced(other, dead))
        return await commit(requests, command_id=command_id)

    other.ledger.commit = looked_at  # type: ignore[method-assign]  # to look on
    await other.engine.start()
    await other.settle()
    assert (await other.task("a")).status is TaskStatus.COMPLETED
    assert fenced == [True], "its tasks were taken from a worker that could still claim"


async def test_one_look_is_not_enough_to_declare_a_worker_dead(pair: Pair) -> None:
    """Its lease has run out, but so has that of one whose machine has just woken up."""
    await _let_lease_run_out(pair)
    await _require_enough_looks(pair)


async def test_looks_that_had_no_answer_are_no_signs_of_death(pair: Pair) -> None:
    """Nobody can renew while the database is away; looks before and after it made three."""
    await _let_lease_run_out(pair)
    ledger, recovery = pair.other.ledger, pair.other.engine._recovery
    for _ in range(SILENT_LOOKS - 1):
        await recovery.tick()
    census = ledger.census

    async def away(worker_id: str, *, limit: int) -> Census:
        raise LedgerUnavailable("away")

    ledger.census = away  # type: ignore[method-assign]  # a fault
    with pytest.raises(LedgerUnavailable):
        await recovery.tick()
    ledger.census = census  # type: ignore[method-assign]  # the fault is over
    await _require_enough_looks(pair)


async def _let_lease_run_out(pair: Pair) -> None:
    engine = pair.other.engine
    await engine.lease.register()
    engine.committer.start()
    await asyncio.sleep(1.5 * LEASE_SECONDS)
    await engine.lease.tick()
    engine.lease._held_since -= 10 * LEASE_SECONDS
    engine.lease.start()


async def _require_enough_looks(pair: Pair) -> None:
    dead, recovery = pair.silent.engine.worker_id, pair.other.engine._recovery
    for _ in range(SILENT_LOOKS - 1):
        await recovery.tick()
        is_held = (await pair.other.task("a")).worker == dead
        assert is_held, "it was declared dead after too few looks"
    while (await pair.other.task("a")).status is not TaskStatus.PENDING:
        await recovery.tick()


async def test_who_has_held_no_lease_for_long_declares_nobody_dead(pair: Pair) -> None:
    """As after an outage of the database, from which this one comes back first."""
    dead, other = pair.silent.engine.worker_id, pair.other
    await other.engine.start()
    for _ in range(6):
        other.engine.lease._held_since = other.engine.system.monotonic()
        await asyncio.sleep(LEASE_SECONDS / 2)
        is_taken = (await other.task("a")).worker != dead
        is_fenced = is_taken or await _is_fenced(other, dead)
        assert not is_fenced, "it was declared dead by one that had held no lease itself"
    await other.settle()
    assert (await other.task("a")).status is TaskStatus.COMPLETED
