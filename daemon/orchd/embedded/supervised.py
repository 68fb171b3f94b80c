"""A database's ledger under the eyes of an embedded orchestrator."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from orchd.embedded.desks import Desk
from orchd.interfaces import Task, TaskStatus
from orchd.ledger.port import (
    Acted,
    ActOnTask,
    Claimed,
    ClaimedTask,
    ClaimTasks,
    Ledger,
    Outcome,
    Request,
)
from orchd.ledger.task_store import Listener, failure_reason
from orchd.tasks.commands import TaskCommand
from orchd.tasks.state import TaskState


class Watcher(Listener, Protocol):
    """What hears of starts too."""

    def starting(self, task: Task) -> None:
        """A task was claimed; `task` is as it was before."""


class SupervisedLedger:
    """Reports every transition at the desk before it lets anything else be claimed.

    What a batch ends is committed and reported first; then the gate is asked, and only
    then follows the claim in a commit of its own. An error of the user's side is kept in
    `error`: nothing more is claimed then, and what runs is still given back.

    Args:
        ledger: shared with the task store, whose owner opens and closes it.
        turn: held while the ledger commits, because it serves one commit at a time.
    """

    def __init__(self, ledger: Ledger, turn: asyncio.Lock, desk: Desk, watcher: Watcher):
        self.error: BaseException | None = None
        self._ledger = ledger
        self._turn = turn
        self._desk = desk
        self._watcher = watcher
        self._tasks: dict[str, Task] = {}
        self._refused = False
        self._begun = _Begun("")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def open(self) -> None:
        """Do nothing: the task store did."""

    async def close(self) -> None:
        """Do nothing: the task store will."""

    async def commit(
        self, requests: Sequence[Request], *, command_id: str
    ) -> list[Outcome]:
        """Carry out what is no claim, report it, then claim if the gate allows it.

        Raises:
            LedgerUnavailable: see the port; a repetition goes on where this one stopped.
        """
        if self._begun.command_id != command_id:
            self._begun = _Begun(command_id)
        begun = self._begun
        others = [r for r in requests if not isinstance(r, ClaimTasks)]
        if begun.ended is None:
            begun.ended = await self._commit(others, command_id) if others else []
            await self._report(others, begun.ended)
        rest = iter(begun.ended)
        return [
            await self._claim(request, f"{command_id}/{index}", begun)
            if isinstance(request, ClaimTasks)
            else next(rest)
            for index, request in enumerate(requests)
        ]

    async def _commit(self, requests: Sequence[Request], command_id: str) -> list[Outcome]:
        async with self._turn:
            return await self._ledger.commit(requests, command_id=command_id)

    # --- claims -----------------------------------------------------------------------

    async def _claim(self, request: ClaimTasks, command_id: str, begun: _Begun) -> Outcome:
        if command_id not in begun.allowed:
            begun.allowed[command_id] = await self._may_claim(request)
        if not begun.allowed[command_id]:
            return Claimed(tasks=())
        bare = msgspec.structs.replace(request, gate=None, on_start=None)
        outcome = (await self._commit((bare,), command_id))[0]
        if not isinstance(outcome, Claimed):
            return outcome
        tasks = [await self._started(claimed) for claimed in outcome.tasks]
        return msgspec.structs.replace(outcome, tasks=tuple(tasks))

    async def _may_claim(self, request: ClaimTasks) -> bool:
        allowed = self.error is None and bool(await self._at_desk(request.gate, True))
        self._refused = not allowed
        return allowed

    async def _started(self, claimed: ClaimedTask) -> ClaimedTask:
        before = task_of_state(claimed.before, claimed.description, None)
        await self._at_desk(lambda: self._watcher.starting(before), None)
        task = task_of_state(claimed.state, claimed.description, None)
        self._tasks[task.id] = task
        return msgspec.structs.replace(claimed, task=task)

    # --- reports ----------------------------------------------------------------------

    async def _report(
        self, requests: Sequence[Request], outcomes: Sequence[Outcome]
    ) -> None:
        for request, outcome in zip(requests, outcomes, strict=True):
            if not isinstance(request, ActOnTask) or not isinstance(outcome, Acted):
                continue
            ended = outcome.state.status is not TaskStatus.IN_PROGRESS
            task = self._tasks.pop(request.task_id, None) if ended else None
            if task is not None and self.error is None:
                await self._report_end(task, outcome.state, request.command)

    async def _report_end(self, task: Task, state: TaskState, command: TaskCommand) -> None:
        task.status, task.attempts = state.status, state.attempts
        if state.result_blob is not None:
            bodies = await self._ledger.bodies(state)
            state = msgspec.structs.replace(state, result=bodies.result)
        await self._at_desk(lambda: self._tell(task, state, command), None)

    def _tell(self, task: Task, state: TaskState, command: TaskCommand) -> None:
        reason = failure_reason(command)
        if reason is not None:
            self._watcher.attempt_failed(task, reason)
        if state.status is TaskStatus.COMPLETED:
            task.result = state.result
            self._watcher.completed(task, state)
        elif state.status is not TaskStatus.PENDING:
            self._watcher.failed(task)
        elif reason is not None:
            self._watcher.retried(task)

    async def _at_desk(self, function: Any, default: object) -> object:
        if function is None:
            return default
        try:
            return await self._desk.call(function)
        except Exception as error:
            self.error = self.error or error
            return None

    # --- reads ------------------------------------------------------------------------

    async def has_work(
        self,
        executors: tuple[str, ...],
        verifiers: tuple[str, ...],
        queues: tuple[str, ...] = ("*",),
    ) -> bool:
        """Tell whether the run goes on: it pauses, or the gate has not refused."""
        if self.error is not None:
            return False
        return self._watcher.is_held() or not self._refused


class _Begun:
    """How far the present batch has come, in case it has to be repeated."""

    def __init__(self, command_id: str) -> None:
        self.command_id = command_id
        self.ended: list[Outcome] | None = None
        self.allowed: dict[str, bool] = {}


def task_of_state(state: TaskState, description: str, result: str | None) -> Task:
    """Return a task as the user's code sees it."""
    metadata = {} if state.metadata is None else msgspec.json.decode(state.metadata)
    return Task(
        id=state.id,
        description=description,
        status=state.status,
        result=result,
        attempts=state.attempts,
        metadata=metadata,
    )
