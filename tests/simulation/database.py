"""The database of a simulated world: a log, rows that follow from it, and leases.

Everything is one synchronous step, so a commit is atomic and commits have an order. Who
reaches it how, and what may go wrong on the way, is `simulation.ledger`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from orchd import breakers, daemons, queues
from orchd.breakers import BreakerState
from orchd.interfaces import TaskStatus
from orchd.ledger.bodies import BlobCollector, load_bodies
from orchd.ledger.port import (
    Acted,
    ActOnBreaker,
    ActOnTask,
    BreakerActed,
    Claimed,
    ClaimedTask,
    ClaimTasks,
    LogEntry,
    Origin,
    Outcome,
    QueueSet,
    RecordDaemon,
    Recorded,
    Refusal,
    Request,
    SetQueue,
    SubmitTask,
    Submitted,
    WorkerView,
)
from orchd.queues import QueueState
from orchd.tasks import commands as c
from orchd.tasks import events as e
from orchd.tasks.machine import Refused, Stamped, decide, evolve
from orchd.tasks.state import TaskState
from simulation.claiming import Search
from simulation.schedule import Schedule

UNSTORABLE = "\N{NO ENTRY}"
"""A sign that this database does not store, for reasons of its own."""
_INT64_MAX = 2**63 - 1
_OTHER_NAMES: dict[type[Any], str] = {
    kind: name
    for types in (queues.EVENT_TYPES, breakers.EVENT_TYPES, daemons.EVENT_TYPES)
    for name, kind in types.items()
}
Clock = Callable[[], int]


class Committed(msgspec.Struct, frozen=True):
    """One commit as it was applied: what was carried out now, and nothing that an earlier
    try of the same command had left in the log."""

    command_id: str
    requests: Sequence[Request]
    outcomes: Sequence[Outcome]
    entries: Sequence[LogEntry]


class Database:
    """The truth. Others see it through a connection.

    Args:
        clock: the database's own, in microseconds; it may jump.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.log: list[LogEntry] = []
        self.streams: dict[str, list[LogEntry]] = {}
        self.tasks: dict[str, TaskState] = {}
        self.queues: dict[str, QueueState] = {}
        self.breakers: dict[str, BreakerState] = {}
        self.workers: dict[str, WorkerView] = {}
        self.schedule = Schedule()
        self.blobs: dict[str, bytes] = {}
        self.on_commit: list[Callable[[Committed], object]] = []
        """Told of every commit right after it."""
        self.on_fence: list[Callable[[WorkerView, bool], object]] = []
        """Told of every worker that was fenced, as it was before, and whether only an
        expired lease was to be taken."""
        self._keys: dict[tuple[str, str], str] = {}
        self._answers: dict[str, dict[int, Outcome]] = {}

    # --- commit -----------------------------------------------------------------------

    def commit(self, requests: Sequence[Request], command_id: str) -> list[Outcome]:
        """Carry out requests in one step; a command that is in the log is answered from
        there, but for those of its requests that left nothing in it."""
        known = dict(self._answers.get(command_id, {}))
        first = len(self.log)
        outcomes = dict(known)
        for claims in (False, True):
            for index, request in enumerate(requests):
                if index in outcomes or isinstance(request, ClaimTasks) is not claims:
                    continue
                before = len(self.log)
                outcomes[index] = self._carry_out(request, command_id)
                if len(self.log) > before:
                    self._remember(command_id, index, outcomes[index])
        answer = [outcomes[index] for index in range(len(requests))]
        if len(self.log) > first:
            carried_out = [index for index in range(len(requests)) if index not in known]
            committed = Committed(
                command_id,
                [requests[index] for index in carried_out],
                [outcomes[index] for index in carried_out],
                self.log[first:],
            )
            for listener in self.on_commit:
                listener(committed)
        return answer

    def _remember(self, command_id: str, index: int, outcome: Outcome) -> None:
        if isinstance(outcome, Claimed):
            outcome = Claimed(tasks=outcome.tasks)
        self._answers.setdefault(command_id, {})[index] = outcome

    def is_in_log(self, command_id: str) -> bool:
        """Tell whether a command has left anything in the log."""
        return command_id in self._answers

    def _carry_out(self, request: Request, command_id: str) -> Outcome:
        if isinstance(request, ActOnTask):
            return self._act(request, command_id)
        if isinstance(request, ClaimTasks):
            return self._claim(request, command_id)
        if isinstance(request, SubmitTask):
            return self._submit(request, command_id)
        if isinstance(request, SetQueue):
            return self._set_queue(request, command_id)
        if isinstance(request, ActOnBreaker):
            return self._act_on_breaker(request, command_id)
        return self._record(request, command_id)

    # --- tasks ------------------------------------------------------------------------

    def taken(self, request: SubmitTask) -> Outcome | None:
        """Return how a submission ends because its id or key is taken, if one is."""
        task = self.tasks.get(request.task_id)
        if task is not None:
            return _resubmitted(request, task, "id_conflict")
        submitted = request.command.submitted
        key = submitted.idempotency_key
        if key is not None and (submitted.namespace, key) in self._keys:
            task = self.tasks[self._keys[submitted.namespace, key]]
            return _resubmitted(request, task, "key_conflict")
        return None

    def _submit(self, request: SubmitTask, command_id: str) -> Outcome:
        taken = self.taken(request)
        if taken is not None:
            return taken
        submitted = request.command.submitted
        key = submitted.idempotency_key
        outcome = self._apply(None, request, command_id)
        if isinstance(outcome, Refusal):
            return outcome
        if key is not None:
            self._keys[submitted.namespace, key] = request.task_id
        return Submitted(state=outcome.state, created=True)

    def _act(self, request: ActOnTask, command_id: str) -> Outcome:
        return self._apply(self.tasks.get(request.task_id), request, command_id)

    def _apply(
        self, state: TaskState | None, request: SubmitTask | ActOnTask, command_id: str
    ) -> Acted | Refusal:
        collector = BlobCollector()
        try:
            command = collector.stored(request.command)
            _require_storable(command)
            happened = decide(state, command)
            meta = _meta(request.origin, command.now, command_id)
            after = self._folded(request.task_id, state, happened, meta)
        except Refused as refused:
            return Refusal(code=refused.code, detail=refused.detail, state=state)
        except (ValueError, OverflowError) as error:
            return Refusal(code="rejected", detail=str(error), state=state)
        self.blobs |= {blob.hash: blob.body for blob in collector.blobs}
        self._store_task(request.task_id, state, after, happened, meta)
        return Acted(state=after, events=happened)

    def _folded(
        self,
        task_id: str,
        state: TaskState | None,
        happened: Sequence[e.TaskEvent],
        meta: e.EventMeta,
    ) -> TaskState:
        version = 0 if state is None else state.version
        after = state
        for number, event in enumerate(happened, start=version + 1):
            after = evolve(after, Stamped(task_id, number, event, meta))
        assert after is not None
        _require_legal(state, after)
        return after

    def _store_task(
        self,
        task_id: str,
        before: TaskState | None,
        after: TaskState,
        happened: Sequence[e.TaskEvent],
        meta: e.EventMeta,
    ) -> None:
        if not happened:
            return
        named = [(e.event_name(event), event) for event in happened]
        self._append(f"task-{task_id}", named, meta)
        self.tasks[task_id] = after
        self.schedule.moved(before, after)

    def _append(
        self, stream: str, named: Iterable[tuple[str, e.Event]], meta: e.EventMeta
    ) -> None:
        history = self.streams.setdefault(stream, [])
        last = self.log[-1].recorded_at if self.log else 0
        recorded_at = max(last, self.clock())
        text = e.encode(meta)
        for name, event in named:
            entry = LogEntry(
                position=len(self.log) + 1,
                stream=stream,
                version=len(history) + 1,
                type=name,
                data=e.encode(event),
                meta=text,
                recorded_at=recorded_at,
            )
            self.log.append(entry)
            history.append(entry)

    # --- claims -----------------------------------------------------------------------

    def _claim(self, claim: ClaimTasks, command_id: str) -> Outcome:
        if not self.may_claim(claim.worker):
            detail = f"worker {claim.worker} was fenced and may not claim"
            return Refusal(code="fenced", detail=detail)
        self.schedule.promote(claim.now, self.tasks)
        if not self.schedule.ready:
            return Claimed(tasks=())
        search = Search(claim, self.tasks, self.queues, self.breakers)
        alone_waiting = search.sees_alone(self.schedule)
        tasks = [
            self._start(claim, before, command_id)
            for before in search.found(self.schedule, self.room(claim.limits))
        ]
        return Claimed(tasks=tuple(tasks), alone_waiting=alone_waiting)

    def may_claim(self, worker: str) -> bool:
        """Tell whether a worker may claim."""
        return self._is_registered(worker)

    def room(self, limits: Mapping[str, int]) -> dict[str, int]:
        """Return how many tasks of each queue with a limit may still start."""
        depth = self.schedule.depth
        return {q: n - depth[q, TaskStatus.IN_PROGRESS] for q, n in limits.items()}

    def _start(self, claim: ClaimTasks, before: TaskState, command_id: str) -> ClaimedTask:
        start = c.Start(now=claim.now, worker=claim.worker, max_crashes=claim.max_crashes)
        happened = decide(before, start)
        meta = _meta(claim.origin, claim.now, command_id)
        after = self._folded(before.id, before, happened, meta)
        self._store_task(before.id, before, after, happened, meta)
        [bodies] = load_bodies([after], lambda digests: self.blobs)
        return ClaimedTask(
            before=before,
            state=after,
            description=bodies.description,
            payload=bodies.payload,
            result=bodies.result,
        )

    # --- queues, breakers, daemons ----------------------------------------------------

    def _set_queue(self, request: SetQueue, command_id: str) -> Outcome:
        state = self.queues.get(request.name)
        happened = queues.decide(state, pause=request.pause)
        meta = _meta(request.origin, request.now, command_id)
        for event in happened:
            version = 1 if state is None else state.version + 1
            state = queues.evolve(state, request.name, version, event, meta)
            self._append(
                f"queue-{request.name}", [(_OTHER_NAMES[type(event)], event)], meta
            )
            self.queues[request.name] = state
        return QueueSet(state=state, events=happened)

    def _act_on_breaker(self, request: ActOnBreaker, command_id: str) -> Outcome:
        state = self.breakers.get(request.name)
        happened = breakers.decide(state, request.command)
        meta = _meta(request.origin, request.command.now, command_id)
        for event in happened:
            version = 1 if state is None else state.version + 1
            state = breakers.evolve(state, request.name, version, event, meta)
            named = [(_OTHER_NAMES[type(event)], event)]
            self._append(f"breaker-{request.name}", named, meta)
            self.breakers[request.name] = state
        return BreakerActed(state=state, events=happened)

    def _record(self, request: RecordDaemon, command_id: str) -> Outcome:
        meta = _meta(request.origin, request.now, command_id)
        named = [(_OTHER_NAMES[type(request.event)], request.event)]
        self._append(f"daemon-{request.worker}", named, meta)
        return Recorded(position=len(self.log))

    # --- leases -----------------------------------------------------------------------

    def register(self, worker: WorkerView, lease_seconds: float) -> None:
        """Write a worker's row; once more, should the first answer have been lost."""
        row = self.workers.get(worker.id)
        if row is not None and row.fenced:
            return
        self.workers[worker.id] = worker
        self.renew(worker.id, lease_seconds)

    def advertise(
        self, worker_id: str, executors: tuple[str, ...], verifiers: tuple[str, ...]
    ) -> bool:
        """Write what a worker can do; False when it was fenced or has no row."""
        if not self._is_registered(worker_id):
            return False
        self.workers[worker_id] = msgspec.structs.replace(
            self.workers[worker_id], executors=executors, verifiers=verifiers
        )
        return True

    def _is_registered(self, worker_id: str) -> bool:
        row = self.workers.get(worker_id)
        return row is not None and not row.fenced

    def renew(self, worker_id: str, lease_seconds: float) -> bool:
        """Extend a lease; False when the worker was fenced or has no row."""
        if not self._is_registered(worker_id):
            return False
        now = self.clock()
        self.workers[worker_id] = msgspec.structs.replace(
            self.workers[worker_id],
            renewed_at=now,
            expires_at=now + round(lease_seconds * 1e6),
        )
        return True

    def fence(self, worker_id: str, *, only_if_expired: bool) -> bool:
        """Fence a worker; True when it is fenced now."""
        row = self.workers.get(worker_id)
        if row is None:
            return False
        if only_if_expired and not row.fenced and row.expires_at > self.clock():
            return False
        self.workers[worker_id] = msgspec.structs.replace(row, fenced=True)
        for listener in self.on_fence:
            listener(row, only_if_expired)
        return True

    def retire(self, worker_id: str) -> None:
        """Remove the row of a worker, unless it holds a task."""
        if not self.held_by(worker_id):
            self.workers.pop(worker_id, None)

    def held_by(self, worker_id: str) -> list[TaskState]:
        """Return tasks in progress of a worker."""
        return [s for s in self.tasks.values() if s.worker == worker_id]


def _meta(origin: Origin, at: int, command_id: str) -> e.EventMeta:
    return e.EventMeta(
        schema=e.SCHEMA_VERSION,
        at=at,
        actor=origin.actor,
        reason=origin.reason,
        traceparent=origin.traceparent,
        worker=origin.worker,
        causation=command_id,
    )


def _resubmitted(request: SubmitTask, state: TaskState, code: str) -> Outcome:
    if state.body_hash == request.command.submitted.body_hash:
        return Submitted(state=state, created=False)
    return Refusal(code=code, detail="it belongs to a task with another body", state=state)


def _require_legal(before: TaskState | None, after: TaskState) -> None:
    """Refuse what the columns of a database refuse."""
    if before is None:
        if after.max_attempts < 1:
            raise ValueError("max_attempts must be at least 1")
        for name in ("priority", "max_attempts", "run_at"):
            if abs(getattr(after, name)) > _INT64_MAX:
                raise ValueError(f"{name} does not fit into 64 bits")
    for text in (after.description, after.result, after.error, after.feedback):
        if text is not None and "\0" in text:
            raise ValueError("NUL is not stored")


def _require_storable(command: c.TaskCommand) -> None:
    output = getattr(command, "output", None)
    result = None if output is None else output.result
    if isinstance(result, str) and UNSTORABLE in result:
        raise ValueError("a sign in the result is not stored")
