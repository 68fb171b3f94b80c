"""The ledger: `commit(requests) -> outcomes`, plus reads.

One commit is one transaction. Each request in it has its own outcome, and a request that
loses (its task moved meanwhile, its key is taken) never spoils the others. A ledger is
used from one event loop; `commit` is called by one committer, with at most `commits_max`
calls under way.

When `commit` raises `LedgerUnavailable` the caller repeats the *identical* requests with
the same `command_id` before any others in their place; a ledger that finds the command in
its log answers from there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

import msgspec

from orchd.breakers import BreakerCommand, BreakerEvent, BreakerState
from orchd.daemons import DaemonEvent
from orchd.interfaces import Task
from orchd.queues import QueueEvent, QueueState
from orchd.tasks.commands import Submit, TaskCommand
from orchd.tasks.events import TaskEvent
from orchd.tasks.state import TaskState


class LedgerUnavailable(Exception):
    """The database cannot be reached or is busy; the same call may succeed later."""


class Fenced(Exception):
    """This worker's lease was taken away; it may not claim any more."""


class _Value(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The base of the immutable values below."""


# --- requests and outcomes ------------------------------------------------------------


class Origin(_Value, frozen=True, kw_only=True):
    """Who asks; stored in the meta of every event that the request causes."""

    actor: str
    reason: str = ""
    traceparent: str | None = None
    worker: str | None = None


class SubmitTask(_Value, frozen=True, kw_only=True):
    """Accept a task under this id. Bodies are inline; the ledger stores large ones apart.

    The outcome is `Submitted`, or `Refusal` with code `id_conflict` (same id, other
    body) or `key_conflict` (same idempotency key, other body).
    """

    task_id: str
    command: Submit
    origin: Origin


class Submitted(_Value, frozen=True, kw_only=True):
    """`created` is false when the same submission was accepted before."""

    state: TaskState
    created: bool


class ClaimTasks(_Value, frozen=True, kw_only=True):
    """Claim up to `slots` ready tasks for `worker`; the outcome is `Claimed`.

    Due timers are promoted first. Order: higher priority, then longer ready. Paused
    queues are left alone, and so are executors whose breaker is not closed, except
    `probe`. `alone=True` claims at most one task that must run alone and nothing else,
    `alone=False` only tasks that need not.
    """

    worker: str
    slots: int
    now: int
    executors: tuple[str, ...]
    """What this worker can execute."""
    verifiers: tuple[str, ...] = ()
    """What this worker can verify with, for tasks that hold a result already."""
    queues: tuple[str, ...] = ("*",)
    """Names to claim from; `*` stands for all."""
    limits: Mapping[str, int] = {}
    """Queue name -> most tasks of it in progress over all workers."""
    probe: str | None = None
    """An executor whose half-open breaker this worker probes: claim only its tasks."""
    alone: bool = False
    max_crashes: int = 3
    origin: Origin
    on_start: Callable[[Task], None] | None = None
    """Called with the task as it was before the claim, when the ledger is a task store.

    Ledgers that are databases ignore it; their caller has `ClaimedTask.before`.
    """
    gate: Callable[[], bool] | None = None
    """Asked, once there is something to claim, whether anything may start (a
    `SafetyCheck`); False claims nothing."""


class ClaimedTask(_Value, frozen=True, kw_only=True):
    """A task that now belongs to this worker, its bodies loaded."""

    before: TaskState
    state: TaskState
    description: str
    payload: str | None
    result: str | None
    """The recorded result, when there is only the verification left to do."""
    task: Task | None = None
    """The store's own task object, when the ledger is a task store."""


class Claimed(_Value, frozen=True, kw_only=True):
    """What was claimed.

    `alone_waiting` tells that a ready task wants to run alone, so that the caller lets
    its other runs end and claims with `alone=True`.
    """

    tasks: tuple[ClaimedTask, ...]
    alone_waiting: bool = False


class ActOnTask(_Value, frozen=True, kw_only=True):
    """Apply a command to a task; the outcome is `Acted` or `Refusal`.

    `known` is the state as the caller knows it: a ledger may decide on it without
    reading, and decides again on the stored state when it has moved.
    """

    task_id: str
    command: TaskCommand
    origin: Origin
    known: TaskState | None = None


class Acted(_Value, frozen=True, kw_only=True):
    """The task's new state and the events that led there (none: nothing to do)."""

    state: TaskState
    events: tuple[TaskEvent, ...]


class SetQueue(_Value, frozen=True, kw_only=True):
    """Pause or resume a queue; the outcome is `QueueSet`."""

    name: str
    pause: bool
    now: int
    origin: Origin


class QueueSet(_Value, frozen=True, kw_only=True):
    state: QueueState | None
    events: tuple[QueueEvent, ...]


class ActOnBreaker(_Value, frozen=True, kw_only=True):
    """Apply a command to a breaker; the outcome is `BreakerActed`."""

    name: str
    command: BreakerCommand
    origin: Origin


class BreakerActed(_Value, frozen=True, kw_only=True):
    state: BreakerState | None
    events: tuple[BreakerEvent, ...]


class RecordDaemon(_Value, frozen=True, kw_only=True):
    """Append to the stream `daemon-<worker>`; the outcome is `Recorded`."""

    worker: str
    event: DaemonEvent
    now: int
    origin: Origin


class Recorded(_Value, frozen=True, kw_only=True):
    position: int


class Refusal(_Value, frozen=True, kw_only=True):
    """The request does not fit: `not_found`, `conflict`, `stale`, `id_conflict`,
    `key_conflict`, `fenced` or `rejected` (the database would not store it)."""

    code: str
    detail: str
    state: TaskState | None = None
    """The state it was refused in, when there is one."""


Request: TypeAlias = (
    SubmitTask | ClaimTasks | ActOnTask | SetQueue | ActOnBreaker | RecordDaemon
)
Outcome: TypeAlias = (
    Submitted | Claimed | Acted | QueueSet | BreakerActed | Recorded | Refusal
)


# --- reads ----------------------------------------------------------------------------


class TaskFilter(_Value, frozen=True, kw_only=True):
    """What `tasks` lists; None and empty mean everything."""

    statuses: tuple[str, ...] = ()
    queue: str | None = None
    executor: str | None = None
    error_class: str | None = None
    since: int | None = None
    """Created at or after this instant."""
    updated_before: int | None = None
    """Last changed before this instant (for "older than")."""


class TaskPage(_Value, frozen=True, kw_only=True):
    """Tasks, newest first, and the cursor of the next page or None at the end."""

    tasks: tuple[TaskState, ...]
    next_cursor: str | None


class Bodies(_Value, frozen=True, kw_only=True):
    """The full texts of a task, wherever they are stored."""

    description: str
    payload: str | None
    result: str | None


class LogEntry(_Value, frozen=True, kw_only=True):
    """One event as it is stored; `data` and `meta` are JSON text."""

    position: int
    stream: str
    version: int
    type: str
    data: str
    meta: str
    recorded_at: int


class QueueView(_Value, frozen=True, kw_only=True):
    """A queue with its depth."""

    name: str
    paused: bool
    reason: str
    depth: Mapping[str, int]
    """Status -> number of tasks."""
    oldest_ready_at: int | None
    """Since when the longest-ready task has been ready."""
    version: int
    changed_at: int | None


class WorkerView(_Value, frozen=True, kw_only=True):
    """A daemon's lease."""

    id: str
    host: str
    boot_id: str
    pid: int
    process_start: int | None
    """Start of the process in clock ticks since boot, see `system.process_start`."""
    executors: tuple[str, ...]
    verifiers: tuple[str, ...]
    release: str
    started_at: int
    renewed_at: int
    expires_at: int
    fenced: bool


class Look(msgspec.Struct, frozen=True, gc=False):
    """What a worker has to see all the time, as it was at one moment.

    Attributes:
        now: the database's clock, in microseconds.
        position: that of the last event; where it is the same, nothing has changed.
        next_due: when the earliest timer is due; None when there is none.
        is_any_ready: whether a task may be ready, for whichever worker; where none is, and
            no timer is due, a claim would find nothing.
    """

    now: int
    position: int
    next_due: int | None
    is_any_ready: bool


class Census(msgspec.Struct, frozen=True):
    """By what a worker finds the dead, and what it has lost itself.

    Attributes:
        workers: the leases, and as fenced whoever holds tasks without having one.
        held: tasks in progress that belong to the worker that asked.
    """

    workers: list[WorkerView]
    held: list[TaskState]


class Ledger(Protocol):
    """State, behind one door. See the module's docstring for the contract."""

    durable: bool
    """Whether an outcome survives the process."""
    sole_writer: bool
    """Whether no other process can write while this one has the ledger open, so that
    every other worker is dead."""
    commits_max: int
    """How many commits may be under way at once: more than one where another process
    carries them out, so that this one has time meanwhile."""

    async def open(self) -> None:
        """Connect; raises `LedgerUnavailable` when there is nothing to connect to."""
        ...

    async def close(self) -> None:
        """Disconnect; idempotent."""
        ...

    async def now(self) -> int:
        """Return the database's clock in microseconds."""
        ...

    async def commit(
        self, requests: Sequence[Request], *, command_id: str
    ) -> list[Outcome]:
        """Carry out all requests in one transaction, answer them in order.

        Raises:
            LedgerUnavailable: nothing is known of the outcome; repeat the same call.
        """
        ...

    async def task(self, task_id: str) -> TaskState | None: ...

    async def taken(self, requests: Sequence[SubmitTask]) -> list[Outcome | None]:
        """Say how each would end because its id or key is taken; None if both are free."""
        ...

    async def bodies(self, state: TaskState) -> Bodies: ...

    async def tasks(
        self, task_filter: TaskFilter, *, limit: int, cursor: str | None = None
    ) -> TaskPage:
        """List tasks, newest first; `ValueError` for a cursor it did not give."""
        ...

    async def task_events(self, task_id: str) -> list[LogEntry]: ...

    async def log(self, *, after: int, limit: int) -> list[LogEntry]:
        """Return the events with a position above `after`, in order."""
        ...

    async def log_position(self) -> int: ...

    async def queues(self) -> list[QueueView]: ...

    async def breakers(self) -> list[BreakerState]: ...

    async def event_counts(self) -> Mapping[str, int]:
        """Return event type -> number in the log."""
        ...

    async def look(self) -> Look:
        """Return what tells whether anything has changed, in one read."""
        ...

    async def has_work(
        self,
        executors: tuple[str, ...],
        verifiers: tuple[str, ...],
        queues: tuple[str, ...] = ("*",),
    ) -> bool:
        """Tell whether anything can still go on without a person (`--until-idle`).

        True while a task is in progress anywhere, or is pending in one of `queues` that
        is not paused, for an executor (or, holding a result, verifiers) among the given
        ones, and waits at most for time.
        """
        ...

    async def has_waiting(self, executor: str) -> bool:
        """Tell whether a ready task waits for this executor, its breaker aside."""
        ...

    async def has_probe(self, breaker: BreakerState) -> bool:
        """Tell whether the worker of a half-open breaker executes a task as its probe."""
        ...

    # Leases: rows, not events; by the database's clock.

    async def register_worker(self, worker: WorkerView, lease_seconds: float) -> None: ...

    async def advertise_worker(
        self, worker_id: str, executors: tuple[str, ...], verifiers: tuple[str, ...]
    ) -> bool:
        """Say anew what a worker can do; False when it was fenced or has no row."""
        ...

    async def renew_worker(self, worker_id: str, lease_seconds: float) -> bool:
        """Extend the lease; False when the worker was fenced."""
        ...

    async def retire_worker(self, worker_id: str) -> None:
        """Remove the row of a worker that holds no task any more."""
        ...

    async def workers(self) -> list[WorkerView]:
        """Return the leases, and as fenced whoever holds tasks without having one."""
        ...

    async def census(self, worker_id: str, *, limit: int) -> Census:
        """Return what `workers` and `held_by` would, in one read."""
        ...

    async def fence_worker(self, worker_id: str, *, only_if_expired: bool) -> bool:
        """Fence a worker so that it cannot claim or renew; True when it is fenced now."""
        ...

    async def held_by(self, worker_id: str, *, limit: int) -> list[TaskState]:
        """Return tasks in progress that belong to this worker."""
        ...

    async def cancel_requests(self, worker_id: str) -> list[str]:
        """Return the ids of this worker's tasks whose cancellation was requested."""
        ...

    def news(self) -> AsyncIterator[None]:
        """Yield at once, when the log may have grown, and at least every five seconds."""
        ...
