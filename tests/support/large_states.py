"""States with many tasks of every fate, written through the ledger in large commits."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from orchd.ledger.opening import open_ledger
from orchd.ledger.port import (
    Acted,
    ActOnTask,
    Claimed,
    ClaimTasks,
    Origin,
    Outcome,
    Request,
    SubmitTask,
    WorkerView,
)
from orchd.ledger.sql import SQLLedger
from orchd.system import RealSystem
from orchd.tasks import commands as c
from orchd.tasks.events import TaskSubmitted
from orchd.tasks.failures import ErrorClass
from orchd.tasks.state import Phase, TaskState

EVENTS_PER_TASK = 3.45
"""About how many events a task of these states has."""
BATCH_TASKS = 500
WORKER = "w1"
RESULT = "A short summary of the document, with some words in it. " * 3
SYSTEM = RealSystem()


def make_large_state(url: str, tasks: int) -> None:
    """Fill an empty database with tasks: completed, verified, retried, dead, pending."""
    asyncio.run(_make(url, tasks))


async def _make(url: str, tasks: int) -> None:
    ledger = open_ledger(url, system=SYSTEM, access="write", create=True, migrate=True)
    await ledger.open()
    try:
        await ledger.register_worker(_worker(), 3600)
        for first in range(0, tasks, BATCH_TASKS):
            numbers = range(first, min(tasks, first + BATCH_TASKS))
            await _commit(ledger, [_submission(number) for number in numbers])
            await _run_all(ledger)
    finally:
        await ledger.close()


def _worker() -> WorkerView:
    now = SYSTEM.now()
    return WorkerView(
        id=WORKER,
        host="host",
        boot_id="boot",
        pid=1,
        process_start=1,
        executors=("echo",),
        verifiers=("judge",),
        release="test",
        started_at=now,
        renewed_at=now,
        expires_at=now,
        fenced=False,
    )


async def _commit(ledger: SQLLedger, requests: list[Request]) -> list[Outcome]:
    return await ledger.commit(requests, command_id=SYSTEM.new_id())


def _submission(number: int) -> SubmitTask:
    submitted = TaskSubmitted(
        description=f"summarise document number {number} in three sentences, please",
        payload=msgspec.Raw(b'{"document":%d,"language":"en"}' % number),
        metadata=msgspec.Raw(b'{"batch":"nightly"}'),
        # One in twenty waits for an executor that nobody has.
        executor="echo" if number % 20 else "rare",
        verifiers=("judge",) if number % 10 == 7 else (),
        max_attempts=3,
        body_hash=f"{number:064d}",
    )
    command = c.Submit(now=SYSTEM.now(), submitted=submitted)
    task_id = f"{SYSTEM.new_id()}-{number:06d}"
    return SubmitTask(task_id=task_id, command=command, origin=Origin(actor="test"))


async def _run_all(ledger: SQLLedger) -> None:
    origin = Origin(actor="worker", worker=WORKER)
    while True:
        claim = ClaimTasks(
            worker=WORKER,
            slots=BATCH_TASKS,
            now=SYSTEM.now(),
            executors=("echo",),
            verifiers=("judge",),
            origin=origin,
        )
        [claimed] = await _commit(ledger, [claim])
        assert isinstance(claimed, Claimed)
        states = [task.state for task in claimed.tasks]
        if not states:
            return
        while states:
            acts: list[Request] = [_end(state, origin) for state in states]
            outcomes = await _commit(ledger, acts)
            assert all(isinstance(outcome, Acted) for outcome in outcomes)
            ends = [o.state for o in outcomes if isinstance(o, Acted)]
            states = [state for state in ends if state.token is not None]


def _end(state: TaskState, origin: Origin) -> ActOnTask:
    return ActOnTask(task_id=state.id, command=_command(state), origin=origin, known=state)


def _command(state: TaskState) -> c.TaskCommand:
    number = int(state.id[-6:])
    run: Any = {"now": SYSTEM.now(), "token": state.token, "run": state.runs}
    output = c.Output(result=RESULT)
    if state.phase is Phase.VERIFY:
        verdict = c.Verdict(verifier="judge", feedback="fine")
        return c.Complete(**run, verdict=verdict)
    if state.verifiers:
        return c.RecordResult(**run, output=output)
    failed: Any = {**run, "error_class": ErrorClass.EXECUTION_FAILED, "retry_at": 0}
    if number % 10 == 3 and state.attempts == 1:
        return c.Fail(**failed, error="no")
    if number % 20 == 5:
        return c.Fail(**failed, error="never", final=True)
    return c.Complete(**run, output=output)
