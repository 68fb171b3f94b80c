"""The ledger on top of any `TaskStore`: nothing durable, no SQL, one process.

A task store knows the status, the attempts and the result of a task; everything else (the
phase, the recorded result, the feedback) lives in this adapter's memory, decided by the
same state machine as everywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

import msgspec

from orchd.breakers import BreakerState
from orchd.engine.storable import storable_object
from orchd.interfaces import Task, TaskStatus, TaskStore
from orchd.ledger.port import (
    Acted,
    ActOnBreaker,
    ActOnTask,
    Bodies,
    BreakerActed,
    Census,
    Claimed,
    ClaimedTask,
    ClaimTasks,
    LogEntry,
    Look,
    Outcome,
    QueueSet,
    QueueView,
    RecordDaemon,
    Recorded,
    Refusal,
    Request,
    SetQueue,
    SubmitTask,
    TaskFilter,
    TaskPage,
    WorkerView,
)
from orchd.system import System
from orchd.tasks import commands as c
from orchd.tasks import events as e
from orchd.tasks.machine import Refused, Stamped, decide, evolve
from orchd.tasks.state import Phase, TaskState

EXECUTOR = "embedded"
"""The name of the one executor, and of the one verifier, of an embedded run."""

Memory: TypeAlias = dict[str, TaskState]
"""What is known of pending tasks beyond what their store knows, by task id."""
CallStore: TypeAlias = Callable[[Callable[[], object]], Awaitable[object]]
"""Runs a function on the thread on which the store may be used."""


class Listener(Protocol):
    """Hears of every transition at once, on the thread on which the store is used."""

    def is_held(self) -> bool:
        """Tell whether the gate refused the last claim for a time only (a pause)."""
        ...

    def is_active(self) -> bool:
        """Tell whether the run may go on at all; callable from any thread."""
        ...

    def attempt_failed(self, task: Task, reason: str) -> None:
        """An execution failed, a verifier refused, or there was no verdict."""
        ...

    def retried(self, task: Task) -> None:
        """The task is pending again."""
        ...

    def failed(self, task: Task) -> None:
        """The task has failed for good."""
        ...

    def completed(self, task: Task, state: TaskState) -> None:
        """The task is done and its result is saved."""
        ...


class Silence:
    """A listener that does nothing."""

    def is_held(self) -> bool:
        """Never hold."""
        return False

    def is_active(self) -> bool:
        """Always go on."""
        return True

    def attempt_failed(self, task: Task, reason: str) -> None:
        """Ignore it."""

    def retried(self, task: Task) -> None:
        """Ignore it."""

    def failed(self, task: Task) -> None:
        """Ignore it."""

    def completed(self, task: Task, state: TaskState) -> None:
        """Ignore it."""


class _Running(msgspec.Struct):
    """A task in progress: what the store gave, and the state."""

    task: Task
    state: TaskState


async def call_directly(function: Callable[[], object]) -> object:
    """Call the store on the event loop's own thread."""
    return function()


class TaskStoreLedger:
    """Drives a `TaskStore` in the order that its contract describes.

    Each start is `update_status(IN_PROGRESS)`, `increment_attempts`, `get_task`; a
    completion is `save_result`, then `update_status(COMPLETED)`. A task that waits for a
    later time stays in progress in the store until then, because a store hands out
    whatever is pending.

    An error that the store or the listener raises ends the work: it is kept in `error`,
    and from then on the store is left alone and every request is refused.

    Args:
        store: used by one thread at a time, through `call`.
        call: runs a function on that thread.
        listener: told of transitions between the calls of the store.
        max_attempts: how many attempts a task has; asked whenever one fails.
        memory: kept by the caller from one ledger to the next on the same store.
    """

    durable, commits_max = False, 1
    sole_writer = True

    def __init__(
        self,
        store: TaskStore,
        *,
        system: System,
        max_attempts: Callable[[], int],
        call: CallStore = call_directly,
        listener: Listener | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.error: BaseException | None = None
        self._store = store
        self._system = system
        self._call = call
        self._listener: Listener = Silence() if listener is None else listener
        self._max_attempts = max_attempts
        self._memory: Memory = {} if memory is None else memory
        self._running: dict[str, _Running] = {}
        self._waiting: dict[str, int] = {}
        self._exhausted = False
        self._refused = False
        self._events = max((state.version for state in self._memory.values()), default=0)

    # --- lifecycle --------------------------------------------------------------------

    async def open(self) -> None:
        """Do nothing: the store is ready."""

    async def close(self) -> None:
        """Make the tasks that wait for a later time pending in the store."""
        if self.error is None:
            await self._call(self._put_back)

    def _put_back(self) -> None:
        try:
            for task_id in list(self._waiting):
                del self._waiting[task_id]
                self._store.update_status(task_id, TaskStatus.PENDING)
        except Exception as error:
            self.error = error

    # --- commit -----------------------------------------------------------------------

    async def commit(
        self, requests: Sequence[Request], *, command_id: str
    ) -> list[Outcome]:
        """Carry out the requests one after the other."""
        outcomes: list[Outcome] = []
        try:
            await self._call(lambda: self._carry_out(requests, outcomes))
        except Exception as error:
            # The program was interrupted amidst the store's work.
            self.error = error
            outcomes += [self._refuse_all(r) for r in requests[len(outcomes) :]]
        return outcomes

    def _carry_out(self, requests: Sequence[Request], outcomes: list[Outcome]) -> None:
        for request in requests:
            outcomes.append(self._answer(request))

    def _answer(self, request: Request) -> Outcome:
        if self.error is not None:
            return self._refuse_all(request)
        try:
            return self._outcome(request)
        except Exception as error:
            self.error = error
            return self._refuse_all(request)

    def _refuse_all(self, request: Request) -> Outcome:
        if isinstance(request, ClaimTasks):
            return Claimed(tasks=())
        return Refusal(code="stale", detail=f"the task store failed: {self.error!r}")

    def _outcome(self, request: Request) -> Outcome:
        if isinstance(request, ClaimTasks):
            return self._claim(request)
        if isinstance(request, ActOnTask):
            return self._act(request)
        if isinstance(request, ActOnBreaker):
            return BreakerActed(state=None, events=())
        if isinstance(request, SetQueue):
            return QueueSet(state=None, events=())
        if isinstance(request, RecordDaemon):
            return Recorded(position=self._events)
        detail = "a task store takes no submissions; add the task to the store itself"
        return Refusal(code="rejected", detail=detail)

    # --- claims -----------------------------------------------------------------------

    def _claim(self, request: ClaimTasks) -> Claimed:
        self._promote(request.now)
        claimed: list[ClaimedTask] = []
        while len(claimed) < request.slots:
            task = self._next(request)
            if task is None:
                break
            claimed.append(self._start(task, request))
        return Claimed(tasks=tuple(claimed))

    def _promote(self, now: int) -> None:
        for task_id, until in list(self._waiting.items()):
            if until <= now:
                del self._waiting[task_id]
                self._store.update_status(task_id, TaskStatus.PENDING)

    def _next(self, request: ClaimTasks) -> Task | None:
        # A gate asks the store itself, in the order that its owner wants.
        ask = self._store.has_pending if request.gate is None else request.gate
        allowed = ask()
        task = self._store.get_next() if allowed else None
        self._exhausted = task is None and not self._listener.is_held()
        # Refused although something is pending: what waits will not get its turn either.
        self._refused = bool(self._waiting) and not allowed and self._store.has_pending()
        # A store may offer what is at work already; the end of that run asks again.
        return None if task is None or task.id in self._running else task

    def _start(self, task: Task, request: ClaimTasks) -> ClaimedTask:
        before = self._before(task, request.now)
        if request.on_start is not None:
            request.on_start(task)
        self._store.update_status(task.id, TaskStatus.IN_PROGRESS)
        if before.phase is Phase.EXECUTE:
            self._store.increment_attempts(task.id)
        current = self._store.get_task(task.id) or task
        command = c.Start(
            now=request.now, worker=request.worker, max_crashes=request.max_crashes
        )
        state = self._evolved(before, decide(before, command), request.now)
        state = msgspec.structs.replace(state, attempts=current.attempts)
        self._memory.pop(task.id, None)
        self._waiting.pop(task.id, None)
        self._running[task.id] = _Running(current, state)
        return ClaimedTask(
            before=before,
            state=state,
            description=current.description,
            payload=None,
            result=state.result if state.phase is Phase.VERIFY else None,
            task=current,
        )

    def _before(self, task: Task, now: int) -> TaskState:
        known = self._memory.get(task.id)
        if known is not None:
            # Whatever the store hands out may start, even if it was to wait.
            known = msgspec.structs.replace(known, waiting_reason=None, waiting_until=None)
        state = known or self._fresh(task, now)
        return msgspec.structs.replace(
            state,
            attempts=task.attempts,
            version=max(state.version, self._events),
            max_attempts=self._max_attempts(),
        )

    def _fresh(self, task: Task, now: int) -> TaskState:
        submitted = e.TaskSubmitted(
            description=task.description,
            executor=EXECUTOR,
            verifiers=(EXECUTOR,),
            max_attempts=self._max_attempts(),
            metadata=storable_object(task.metadata),
        )
        meta = e.EventMeta(schema=e.SCHEMA_VERSION, at=now)
        return evolve(None, Stamped(task.id, self._events, submitted, meta))

    def _evolved(
        self, state: TaskState, events: Sequence[e.TaskEvent], at: int
    ) -> TaskState:
        meta = e.EventMeta(schema=e.SCHEMA_VERSION, at=at)
        for event in events:
            version = state.version + 1
            state = evolve(state, Stamped(state.id, version, event, meta))
            self._events = max(self._events, version)
        return state

    # --- ends of runs -----------------------------------------------------------------

    def _act(self, request: ActOnTask) -> Outcome:
        running = self._running.get(request.task_id)
        if running is None:
            return Refusal(code="stale", detail=f"task {request.task_id} is not running")
        state = self._counted(running, request.command)
        try:
            events = decide(state, request.command)
        except Refused as refused:
            return Refusal(code=refused.code, detail=refused.detail, state=state)
        running.state = self._evolved(state, events, request.command.now)
        if running.state.status is not TaskStatus.IN_PROGRESS:
            self._settle(running, request.command)
        return Acted(state=running.state, events=events)

    def _counted(self, running: _Running, command: c.TaskCommand) -> TaskState:
        # How many attempts were made is the store's to say, and asked when it matters.
        reason = failure_reason(command)
        if reason is None:
            return running.state
        self._listener.attempt_failed(running.task, reason)
        refreshed = self._store.get_task(running.state.id) or running.task
        return msgspec.structs.replace(
            running.state, attempts=refreshed.attempts, max_attempts=self._max_attempts()
        )

    def _settle(self, running: _Running, command: c.TaskCommand) -> None:
        task, state = running.task, running.state
        del self._running[state.id]
        self._exhausted = False
        if state.status is TaskStatus.COMPLETED:
            self._store.save_result(state.id, state.result or "")
            self._store.update_status(state.id, TaskStatus.COMPLETED)
            self._listener.completed(task, state)
        elif state.status is TaskStatus.PENDING:
            self._make_pending(state, command.now)
            if failure_reason(command) is not None:
                self._listener.retried(task)
        else:
            self._store.update_status(state.id, TaskStatus.FAILED)
            self._listener.failed(task)

    def _make_pending(self, state: TaskState, now: int) -> None:
        self._memory[state.id] = state
        if state.waiting_until is not None and state.waiting_until > now:
            self._waiting[state.id] = state.waiting_until
        else:
            self._store.update_status(state.id, TaskStatus.PENDING)

    # --- reads ------------------------------------------------------------------------

    async def now(self) -> int:
        """Return this machine's clock."""
        return self._system.now()

    async def task(self, task_id: str) -> TaskState | None:
        """Return what is known of a task that runs or waits here."""
        running = self._running.get(task_id)
        return self._memory.get(task_id) if running is None else running.state

    async def taken(self, requests: Sequence[SubmitTask]) -> list[Outcome | None]:
        """Return nothing: whether an id is free is for the store to know."""
        return [None] * len(requests)

    async def bodies(self, state: TaskState) -> Bodies:
        """Return the texts of a task."""
        return Bodies(
            description=state.description or "", payload=state.payload, result=state.result
        )

    async def tasks(
        self, task_filter: TaskFilter, *, limit: int, cursor: str | None = None
    ) -> TaskPage:
        """Return the tasks at work: a store cannot be listed."""
        states = [running.state for running in self._running.values()]
        wanted = task_filter.statuses
        found = [s for s in states if not wanted or s.status.value in wanted]
        return TaskPage(tasks=tuple(found[:limit]), next_cursor=None)

    async def task_events(self, task_id: str) -> list[LogEntry]:
        """Return nothing: there is no log."""
        return []

    async def log(self, *, after: int, limit: int) -> list[LogEntry]:
        """Return nothing: there is no log."""
        return []

    async def log_position(self) -> int:
        """Return a constant: nobody else moves tasks here."""
        return 0

    async def queues(self) -> list[QueueView]:
        """Return nothing: a store has no queues."""
        return []

    async def breakers(self) -> list[BreakerState]:
        """Return nothing: an embedded run has its `SafetyCheck` instead."""
        return []

    async def event_counts(self) -> Mapping[str, int]:
        """Return nothing: there is no log."""
        return {}

    async def look(self) -> Look:
        """Return when the first waiting task may go on; there is no log."""
        due = min(self._waiting.values(), default=None)
        # What is ready the store alone knows.
        return Look(now=await self.now(), position=0, next_due=due, is_any_ready=True)

    async def has_work(
        self,
        executors: tuple[str, ...],
        verifiers: tuple[str, ...],
        queues: tuple[str, ...] = ("*",),
    ) -> bool:
        """Tell whether a task runs or waits, or the store has not been asked since."""
        if self.error is not None:
            return False
        if self._running or self._listener.is_held() or not self._exhausted:
            return True
        return bool(self._waiting) and self._listener.is_active() and not self._refused

    async def has_waiting(self, executor: str) -> bool:
        """Return False: there is no breaker that a task could wait for."""
        return False

    async def has_probe(self, breaker: BreakerState) -> bool:
        """Return False: there is no breaker to probe."""
        return False

    # --- leases: nobody else is there -------------------------------------------------

    async def register_worker(self, worker: WorkerView, lease_seconds: float) -> None:
        """Do nothing."""

    async def advertise_worker(
        self, worker_id: str, executors: tuple[str, ...], verifiers: tuple[str, ...]
    ) -> bool:
        """Agree."""
        return True

    async def renew_worker(self, worker_id: str, lease_seconds: float) -> bool:
        """Agree."""
        return True

    async def retire_worker(self, worker_id: str) -> None:
        """Do nothing."""

    async def workers(self) -> list[WorkerView]:
        """Return nobody."""
        return []

    async def fence_worker(self, worker_id: str, *, only_if_expired: bool) -> bool:
        """Agree: there is no such worker."""
        return True

    async def census(self, worker_id: str, *, limit: int) -> Census:
        """Return nobody, who holds nothing."""
        return Census(workers=[], held=[])

    async def held_by(self, worker_id: str, *, limit: int) -> list[TaskState]:
        """Return nothing."""
        return []

    async def cancel_requests(self, worker_id: str) -> list[str]:
        """Return nothing."""
        return []

    async def news(self) -> AsyncIterator[None]:
        """Yield nothing: nobody else writes."""
        await asyncio.get_running_loop().create_future()
        yield


def failure_reason(command: c.TaskCommand) -> str | None:
    """Return why an attempt did not succeed, or None for any other command."""
    if isinstance(command, c.Fail | c.FailVerification):
        return command.error
    return command.verdict.feedback if isinstance(command, c.Refuse) else None
