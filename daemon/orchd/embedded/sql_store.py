"""A task store on the event log: SQLite or PostgreSQL, durable, every change an event."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import msgspec

from orchd.config.settings import Settings
from orchd.embedded.desks import Desk, LoopThread
from orchd.embedded.lifecycle import SYSTEM
from orchd.embedded.session import NEVER, embedded_settings
from orchd.embedded.supervised import SupervisedLedger, Watcher, task_of_state
from orchd.interfaces import Task, TaskStatus, TaskStore
from orchd.ledger.opening import open_ledger
from orchd.ledger.port import (
    Acted,
    ActOnTask,
    Origin,
    Outcome,
    Refusal,
    Request,
    SubmitTask,
    Submitted,
    TaskFilter,
)
from orchd.ledger.task_store import EXECUTOR
from orchd.tasks import commands as c
from orchd.tasks.events import TaskSubmitted, encode
from orchd.tasks.failures import ErrorClass
from orchd.tasks.state import Phase, TaskState

LEASE_SECONDS = 10.0
PAGE_TASKS = 1_000
WORKER = "task-store"
"""The worker of tasks that are started by `update_status`, without an orchestrator."""
ORIGIN = Origin(actor="library", worker=WORKER)


class SQLTaskStore(TaskStore):
    """Tasks in the event log of a database.

    An `Orchestrator` that is given one works on the log directly: claims, results and
    retries are events, a result is on disk before it is verified, and a crash costs at
    most the run that was at work. The number of attempts is the task's own, set when it
    is added; `OrchestratorConfig.max_attempts_per_task` does not change it.

    The methods of `TaskStore` work too, for callers without an orchestrator. They block,
    and must not be called from the event loop of an asynchronous executor.

    Args:
        url: `sqlite:////absolute/path.db`, `sqlite:///relative.db` or `postgresql://…`.
            The state is made or upgraded when needed.
        max_attempts: attempts in total of tasks that are added without their own number.

    Raises:
        orchd.errors.StateLocked: another process has this SQLite state open.
        orchd.errors.StateError: the state cannot be used.
    """

    def __init__(self, url: str, *, max_attempts: int = 3) -> None:
        self.url = url
        self.max_attempts = max_attempts
        self._ledger = open_ledger(
            url, system=SYSTEM, access="write", create=True, migrate=True
        )
        self._turn = asyncio.Lock()
        self._ended_without_result: set[str] = set()
        self._thread = LoopThread("orchd-sql-store")
        self._thread.wait_for(self._ledger.open())

    def close(self) -> None:
        """Disconnect and let other processes use the state; idempotent."""
        if not self._thread.loop.is_closed():
            self._thread.wait_for(self._ledger.close())
            self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- adding -----------------------------------------------------------------------

    def add(
        self,
        description: str,
        *,
        task_id: str | None = None,
        priority: int = 0,
        metadata: Mapping[str, Any] | None = None,
        max_attempts: int | None = None,
    ) -> Task:
        """Add a task and return it; it is on disk then.

        Adding the same task under the same id again changes nothing.

        Raises:
            ValueError: another task has this id.
        """
        submitted = TaskSubmitted(
            description=description,
            executor=EXECUTOR,
            verifiers=(EXECUTOR,),
            priority=priority,
            metadata=msgspec.Raw(msgspec.json.encode(metadata)) if metadata else None,
            max_attempts=self.max_attempts if max_attempts is None else max_attempts,
        )
        digest = hashlib.sha256(encode(submitted).encode()).hexdigest()
        submitted = msgspec.structs.replace(submitted, body_hash=digest)
        request = SubmitTask(
            task_id=task_id or SYSTEM.new_id(),
            command=c.Submit(now=SYSTEM.now(), submitted=submitted),
            origin=ORIGIN,
        )
        outcome = self._commit(request)
        assert isinstance(outcome, Submitted)
        return self._view(outcome.state)

    # --- TaskStore --------------------------------------------------------------------

    def get_next(self) -> Task | None:
        """Return the pending task that would be claimed next, or None."""
        now = SYSTEM.now()
        pending = [s for s in self._states(TaskStatus.PENDING) if _is_ready(s, now)]
        first = min(pending, key=lambda s: (-s.priority, s.created_at), default=None)
        return None if first is None else self._view(first)

    def has_pending(self) -> bool:
        """Tell whether any task is pending, ready or waiting."""
        return bool(self._page(TaskStatus.PENDING, 1, None).tasks)

    def update_status(self, task_id: str, status: TaskStatus) -> None:
        """Bring a task to a status by the event that leads there; ignore unknown ids.

        A failed attempt (`PENDING` after `IN_PROGRESS`) counts against the task's own
        number of attempts, and the last one fails it. `COMPLETED` before `save_result`
        takes effect with the result.

        Raises:
            ValueError: the task cannot come to this status.
        """
        state = self._state(task_id)
        if state is None or state.status is status:
            return
        if status is TaskStatus.COMPLETED and not state.has_result:
            self._ended_without_result.add(task_id)
            return
        self._act(task_id, _command_to(state, status))

    def save_result(self, task_id: str, result: str) -> None:
        """Record the result of a task that is in progress; ignore unknown ids.

        Raises:
            ValueError: the task is not in progress.
        """
        state = self._state(task_id)
        if state is None:
            return
        output = c.Output(result=result)
        self._act(task_id, c.RecordResult(**_run_of(state), output=output))
        if task_id in self._ended_without_result:
            self._ended_without_result.discard(task_id)
            self._act(task_id, _acceptance(state))

    def increment_attempts(self, task_id: str) -> None:
        """Do nothing: the start of the run counted the attempt."""

    def get_task(self, task_id: str) -> Task | None:
        """Return a task by its id, or None."""
        state = self._state(task_id)
        return None if state is None else self._view(state)

    # --- what an orchestrator uses ----------------------------------------------------

    def engine_loop(self) -> LoopThread:
        """Return the loop on which an engine has to use the ledger."""
        return self._thread

    def engine_settings(self, workers: int) -> Settings:
        """Return the settings for an engine."""
        return embedded_settings(self.url, workers, LEASE_SECONDS)

    def engine_ledger(self, desk: Desk, watcher: Watcher) -> SupervisedLedger:
        """Return the ledger for one run of an engine."""
        return SupervisedLedger(self._ledger, self._turn, desk, watcher)

    # --- inside -----------------------------------------------------------------------

    def _commit(self, request: Request) -> Outcome:
        outcome: Outcome = self._thread.wait_for(self._commit_one(request))
        if isinstance(outcome, Refusal):
            raise ValueError(f"{outcome.code}: {outcome.detail}")
        return outcome

    async def _commit_one(self, request: Request) -> Outcome:
        async with self._turn:
            command_id = SYSTEM.new_id()
            return (await self._ledger.commit((request,), command_id=command_id))[0]

    def _act(self, task_id: str, command: c.TaskCommand) -> TaskState:
        request = ActOnTask(task_id=task_id, command=command, origin=ORIGIN)
        outcome = self._commit(request)
        assert isinstance(outcome, Acted)
        return outcome.state

    def _state(self, task_id: str) -> TaskState | None:
        state: TaskState | None = self._thread.wait_for(self._ledger.task(task_id))
        return state

    def _page(self, status: TaskStatus, limit: int, cursor: str | None) -> Any:
        wanted = TaskFilter(statuses=(status.value,), executor=EXECUTOR)
        listing = self._ledger.tasks(wanted, limit=limit, cursor=cursor)
        return self._thread.wait_for(listing)

    def _states(self, status: TaskStatus) -> list[TaskState]:
        states: list[TaskState] = []
        cursor: str | None = None
        while True:
            page = self._page(status, PAGE_TASKS, cursor)
            states += page.tasks
            cursor = page.next_cursor
            if cursor is None:
                return states

    def _view(self, state: TaskState) -> Task:
        bodies = self._thread.wait_for(self._ledger.bodies(state))
        return task_of_state(state, bodies.description, bodies.result)


def _is_ready(state: TaskState, now: int) -> bool:
    return state.waiting_until is None or state.waiting_until <= now


def _run_of(state: TaskState) -> dict[str, Any]:
    return {"now": SYSTEM.now(), "token": state.token or 0, "run": state.runs}


def _command_to(state: TaskState, status: TaskStatus) -> c.TaskCommand:
    now = SYSTEM.now()
    if status is TaskStatus.IN_PROGRESS:
        return c.Start(now=now, worker=WORKER, max_crashes=NEVER)
    if status is TaskStatus.COMPLETED:
        return _acceptance(state)
    if status is TaskStatus.CANCELLED:
        return c.Cancel(now=now)
    if status is TaskStatus.DISCARDED:
        return c.Discard(now=now)
    if state.status is TaskStatus.IN_PROGRESS:
        return _end_of_attempt(state, final=status is TaskStatus.FAILED)
    if status is TaskStatus.PENDING:
        return c.Requeue(now=now)
    raise ValueError(
        f"task {state.id} is {state.status.value} and cannot be {status.value}"
    )


def _acceptance(state: TaskState) -> c.Complete:
    # Whoever drives the store is its own judge.
    verdict = c.Verdict(verifier=EXECUTOR, feedback="accepted through update_status")
    return c.Complete(**_run_of(state), verdict=verdict)


def _end_of_attempt(state: TaskState, *, final: bool) -> c.TaskCommand:
    run = _run_of(state)
    said = "ended by update_status"
    if state.phase is Phase.EXECUTE:
        failed = ErrorClass.EXECUTION_FAILED
        retry_at = run["now"]
        return c.Fail(**run, error_class=failed, error=said, retry_at=retry_at, final=final)
    if final:
        return c.FailVerification(
            **run, verifier=WORKER, error=said, retry_at=run["now"], max_verify_errors=0
        )
    verdict = c.Verdict(verifier=WORKER, feedback=said)
    return c.Refuse(**run, verdict=verdict, retry_at=run["now"])
