"""Short ways to ask a ledger for things, for the tests of every adapter."""

from __future__ import annotations

from typing import Any

import msgspec

from orchd.ledger.port import (
    Acted,
    ActOnTask,
    Claimed,
    ClaimedTask,
    ClaimTasks,
    Ledger,
    Origin,
    Outcome,
    Refusal,
    Request,
    SetQueue,
    SubmitTask,
    Submitted,
    WorkerView,
)
from orchd.system import RealSystem
from orchd.tasks.commands import Complete, Output, Submit, TaskCommand
from orchd.tasks.events import TaskSubmitted
from orchd.tasks.state import TaskState

ORIGIN = Origin(actor="test", reason="because", worker=None)
MINUTE = 60_000_000


class Hand:
    """A worker's hand on a ledger: every request is a commit of its own."""

    def __init__(self, ledger: Ledger, worker: str = "w1") -> None:
        self.ledger = ledger
        self.worker = worker
        self.system = RealSystem()

    def now(self) -> int:
        return self.system.now()

    async def register(self, lease_seconds: float = 60.0) -> None:
        now = self.now()
        view = WorkerView(
            id=self.worker,
            host="host",
            boot_id="boot",
            pid=1,
            process_start=7,
            executors=("work",),
            verifiers=("judge",),
            release="test",
            started_at=now,
            renewed_at=now,
            expires_at=now,
            fenced=False,
        )
        await self.ledger.register_worker(view, lease_seconds)

    async def commit(
        self, *requests: Request, command_id: str | None = None
    ) -> list[Outcome]:
        return await self.ledger.commit(
            requests, command_id=command_id or self.system.new_id()
        )

    def submission(self, task_id: str, **fields: Any) -> SubmitTask:
        known: dict[str, Any] = {
            "description": f"do {task_id}",
            "executor": "work",
            "max_attempts": 3,
            "body_hash": task_id,
        }
        command = Submit(now=self.now(), submitted=TaskSubmitted(**(known | fields)))
        return SubmitTask(task_id=task_id, command=command, origin=ORIGIN)

    async def submit(self, task_id: str, **fields: Any) -> TaskState:
        [outcome] = await self.commit(self.submission(task_id, **fields))
        assert isinstance(outcome, Submitted), outcome
        return outcome.state

    def claim_request(self, slots: int = 10, **fields: Any) -> ClaimTasks:
        known: dict[str, Any] = {
            "worker": self.worker,
            "slots": slots,
            "now": self.now(),
            "executors": ("work",),
            "verifiers": ("judge",),
            "origin": ORIGIN,
        }
        return ClaimTasks(**(known | fields))

    async def claimed(self, slots: int = 10, **fields: Any) -> Claimed:
        [outcome] = await self.commit(self.claim_request(slots, **fields))
        assert isinstance(outcome, Claimed), outcome
        return outcome

    async def claim(self, slots: int = 10, **fields: Any) -> list[ClaimedTask]:
        return list((await self.claimed(slots, **fields)).tasks)

    async def claim_ids(self, slots: int = 10, **fields: Any) -> list[str]:
        return [task.state.id for task in await self.claim(slots, **fields)]

    def act_request(
        self, task_id: str, command: TaskCommand, known: TaskState | None = None
    ) -> ActOnTask:
        return ActOnTask(task_id=task_id, command=command, origin=ORIGIN, known=known)

    async def act(
        self, task_id: str, command: TaskCommand, known: TaskState | None = None
    ) -> Outcome:
        [outcome] = await self.commit(self.act_request(task_id, command, known))
        return outcome

    async def acted(
        self, task_id: str, command: TaskCommand, known: TaskState | None = None
    ) -> TaskState:
        outcome = await self.act(task_id, command, known)
        assert isinstance(outcome, Acted), outcome
        return outcome.state

    def completion(self, state: TaskState, result: str = "done") -> Complete:
        return Complete(now=self.now(), output=Output(result=result), **owned(state))

    async def pause(self, queue: str, *, pause: bool = True) -> Outcome:
        request = SetQueue(name=queue, pause=pause, now=self.now(), origin=ORIGIN)
        [outcome] = await self.commit(request)
        return outcome

    async def types(self, task_id: str) -> list[str]:
        """Return the names of a task's events without their `task.`."""
        entries = await self.ledger.task_events(task_id)
        return [entry.type.removeprefix("task.") for entry in entries]


def owned(state: TaskState) -> dict[str, Any]:
    """Return what a command of the run that holds a task carries."""
    return {"token": state.token, "run": state.runs}


def refusal(outcome: Outcome) -> str:
    """Return the code of a refusal."""
    assert isinstance(outcome, Refusal), outcome
    return outcome.code


def raw(value: Any) -> msgspec.Raw:
    """Return a value as JSON."""
    return msgspec.Raw(msgspec.json.encode(value))
