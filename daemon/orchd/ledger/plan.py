"""What one transaction is going to store: requests decided and folded, stream by stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from orchd import breakers, daemons, queues
from orchd.interfaces import TaskStatus
from orchd.ledger.bodies import BlobCollector
from orchd.ledger.port import (
    Acted,
    ActOnBreaker,
    ActOnTask,
    BreakerActed,
    ClaimTasks,
    Origin,
    Outcome,
    QueueSet,
    RecordDaemon,
    Refusal,
    SetQueue,
    SubmitTask,
    Submitted,
)
from orchd.ledger.rows import TaskRow, breaker_row, changed_columns, queue_row, task_row
from orchd.tasks import commands as c
from orchd.tasks import events as e
from orchd.tasks.machine import Refused, Stamped, decide, evolve
from orchd.tasks.state import TaskState
from orchd_eventstore import ANY_VERSION, Append, NewEvent

TASK_STREAM, QUEUE_STREAM = "task-", "queue-"
BREAKER_STREAM, DAEMON_STREAM = "breaker-", "daemon-"

_OTHER_NAMES: dict[type[Any], str] = {
    kind: name
    for types in (queues.EVENT_TYPES, breakers.EVENT_TYPES, daemons.EVENT_TYPES)
    for name, kind in types.items()
}
_INT64_MAX = 2**63 - 1
_Meta = tuple[e.EventMeta, str]


class Pair(NamedTuple):
    """A task before and after its claim."""

    before: TaskState
    after: TaskState


class Stream:
    """One stream within a commit: where it stood, and what is added to it.

    Args:
        is_stored: whether `before` is what the database holds, read in this transaction.
    """

    def __init__(
        self, name: str, projection: str | None, before: Any, *, is_stored: bool
    ) -> None:
        self.name = name
        self.projection = projection
        self.before = before
        self.state = before
        self.events: list[NewEvent] = []
        self.is_stored = is_stored
        self.is_doubtful = False
        """Whether a request on it has to be decided again on the stored state."""

    @property
    def version(self) -> int:
        return (0 if self.before is None else self.before.version) + len(self.events)

    def item(self) -> Append:
        """Return what the event store is to append."""
        if self.projection is None:
            return Append(
                stream=self.name,
                expected_version=ANY_VERSION,
                events=self.events,
                counters=self._event_counters({}),
            )
        return Append(
            stream=self.name,
            expected_version=self.version - len(self.events),
            events=self.events,
            projection=self.projection,
            row=_ROWS[self.projection](self.state),
            changed=self._changed_columns(),
            counters=self._event_counters(self.depth_counters()),
        )

    def _changed_columns(self) -> frozenset[str] | None:
        before, after = self.before, self.state
        if before is None or not isinstance(after, TaskState):
            return None
        return changed_columns(before, after)

    def _event_counters(self, counts: dict[str, int]) -> dict[str, int]:
        for event in self.events:
            name = f"events/{event.type}"
            counts[name] = counts.get(name, 0) + 1
        return counts

    def depth_counters(self) -> dict[str, int]:
        """Return what this changes in the numbers of tasks per queue and status."""
        before, after = self.before, self.state
        if not isinstance(after, TaskState):
            return {}
        if before is not None and before.status is after.status:
            return {}
        counts = {_depth_counter(after.queue, after.status): 1}
        if before is not None:
            counts[_depth_counter(before.queue, before.status)] = -1
        return counts


@lru_cache(maxsize=1_024)
def _depth_counter(queue: str, status: TaskStatus) -> str:
    return f"queue/{queue}/{status.value}"


_ROWS: dict[str, Callable[[Any], Mapping[str, Any]]] = {
    "tasks": TaskRow,
    "queues": queue_row,
    "breakers": breaker_row,
}


class Plan:
    """Decides requests one after the other on the states that are known so far.

    Outcomes are tentative: one that rests on a stream holds only if the stream's item is
    accepted. `doubtful` lists the requests that need the stored state.
    """

    def __init__(self, command_id: str) -> None:
        self.collector = BlobCollector()
        self.outcomes: dict[int, Outcome] = {}
        self.claims: dict[int, list[Pair]] = {}
        self.alone_waiting: set[int] = set()
        self.recorded: dict[int, int] = {}
        """Request -> place of its event among those of its daemon's stream."""
        self.rests_on: dict[int, str] = {}
        self.doubtful: list[int] = []
        self.items: list[Append] = []
        self._command_id = command_id
        self._streams: dict[str, Stream] = {}
        self._keys: dict[tuple[str, str], Stream] = {}
        self._metas: dict[tuple[Origin, int], _Meta] = {}
        self._claimed: dict[int, list[Stream]] = {}

    def finish(self) -> None:
        """Fix what is to be appended."""
        self.items = [s.item() for s in self._streams.values() if s.events]

    def load(self, stream: str, projection: str, state: Any) -> None:
        """Take over a state as the database holds it; None when there is none."""
        self._streams[stream] = Stream(stream, projection, state, is_stored=True)

    # --- tasks ------------------------------------------------------------------------

    def submit(self, index: int, request: SubmitTask) -> None:
        """Decide a submission."""
        submitted = request.command.submitted
        key = submitted.idempotency_key
        name = TASK_STREAM + request.task_id
        same = self._streams.get(name)
        if same is not None and same.state is not None:
            self._settle(index, same, resubmitted(request, same.state, "id_conflict"))
            return
        same = None if key is None else self._keys.get((submitted.namespace, key))
        if same is not None:
            self._settle(index, same, resubmitted(request, same.state, "key_conflict"))
            return
        stream = Stream(name, "tasks", None, is_stored=True)
        try:
            self._apply(stream, request)
        except (ValueError, OverflowError) as error:
            self.outcomes[index] = Refusal(code="rejected", detail=str(error))
            return
        self._streams[name] = stream
        if key is not None:
            self._keys[submitted.namespace, key] = stream
        self._settle(index, stream, Submitted(state=stream.state, created=True))

    def act(self, index: int, request: ActOnTask, *, use_known: bool) -> None:
        """Decide a command on the state that is loaded, else on the one given."""
        name = TASK_STREAM + request.task_id
        stream = self._streams.get(name)
        if stream is None and use_known and request.known is not None:
            stream = Stream(name, "tasks", request.known, is_stored=False)
            self._streams[name] = stream
        if stream is None or stream.is_doubtful:
            self.doubtful.append(index)
            return
        self._act_on(index, request, stream)

    def _act_on(self, index: int, request: ActOnTask, stream: Stream) -> None:
        outcome: Outcome
        events: tuple[e.TaskEvent, ...] = ()
        try:
            events = self._apply(stream, request)
            outcome = Acted(state=stream.state, events=events)
        except Refused as refused:
            outcome = Refusal(code=refused.code, detail=refused.detail, state=stream.state)
        except (ValueError, OverflowError) as error:
            outcome = Refusal(code="rejected", detail=str(error), state=stream.state)
        if not events and not stream.is_stored:
            # Nothing that is written would check what the caller knew.
            stream.is_doubtful = True
            self.doubtful.append(index)
            return
        self._settle(index, stream, outcome)

    def started(self, index: int, request: ClaimTasks, found: Sequence[TaskState]) -> None:
        """Note tasks that the database has started for a worker, as they were before."""
        command, meta = _start(request), self._meta(request.origin, request.now)[0]
        self.claims[index] = [
            Pair(state, evolve(state, Stamped(state.id, state.version + 1, event, meta)))
            for state in found
            for event in decide(state, command)
        ]

    def claim(self, index: int, request: ClaimTasks, states: Sequence[TaskState]) -> None:
        """Start tasks for a worker, on their states as the claim found them."""
        # Anew: a batch that the database does not store as a whole claims once more.
        streams = self._claimed[index] = []
        command, meta = _start(request), self._meta(request.origin, request.now)
        for state in states:
            stream = Stream(TASK_STREAM + state.id, "tasks", state, is_stored=True)
            self._add(stream, state.id, decide(state, command), meta)
            streams.append(stream)
        self.claims[index] = [Pair(stream.before, stream.state) for stream in streams]

    def claimed_items(self, index: int) -> list[Append]:
        """Return what is to be appended for the tasks of a claim."""
        return [stream.item() for stream in self._claimed.get(index, ())]

    def fenced(self, index: int, worker: str) -> None:
        """Refuse a claim: its worker's lease was taken away."""
        detail = f"worker {worker} was fenced and may not claim"
        self.outcomes[index] = Refusal(code="fenced", detail=detail)

    def _apply(
        self, stream: Stream, request: SubmitTask | ActOnTask
    ) -> tuple[e.TaskEvent, ...]:
        command = self.collector.stored(request.command)
        events = decide(stream.state, command)
        meta = self._meta(request.origin, command.now)
        self._add(stream, request.task_id, events, meta)
        return events

    def _add(
        self,
        stream: Stream,
        task_id: str,
        events: tuple[e.TaskEvent, ...],
        meta: _Meta,
    ) -> None:
        state, added, has_nul = stream.state, [], False
        for version, event in enumerate(events, start=stream.version + 1):
            state = evolve(state, Stamped(task_id, version, event, meta[0]))
            data = e.encode(event)
            has_nul = has_nul or "\\u0000" in data
            added.append(NewEvent(e.event_name(event), data, meta[1]))
        if has_nul:
            _require_storable(state)
        if stream.before is None and state is not None:
            _require_in_range(state)
        stream.state = state
        stream.events += added

    def _meta(self, origin: Origin, at: int) -> _Meta:
        found = self._metas.get((origin, at))
        if found is None:
            meta = e.EventMeta(
                schema=e.SCHEMA_VERSION,
                at=at,
                actor=origin.actor,
                reason=origin.reason,
                traceparent=origin.traceparent,
                worker=origin.worker,
                causation=self._command_id,
            )
            found = self._metas[origin, at] = (meta, e.encode(meta))
        return found

    def meta_text(self, origin: Origin, at: int) -> str:
        """Return the meta of an event that this command causes."""
        return self._meta(origin, at)[1]

    def _settle(self, index: int, stream: Stream, outcome: Outcome) -> None:
        self.outcomes[index] = outcome
        if stream.events:
            self.rests_on[index] = stream.name

    # --- everything else --------------------------------------------------------------

    def set_queue(self, index: int, request: SetQueue) -> None:
        """Decide a pause or a resumption on the loaded state."""
        stream = self._streams[QUEUE_STREAM + request.name]
        happened = queues.decide(stream.state, pause=request.pause)
        meta, text = self._meta(request.origin, request.now)
        for event in happened:
            version = stream.version + 1
            stream.state = queues.evolve(stream.state, request.name, version, event, meta)
            stream.events.append(_new(event, text))
        self._settle(index, stream, QueueSet(state=stream.state, events=happened))

    def act_on_breaker(self, index: int, request: ActOnBreaker) -> None:
        """Decide a breaker's command on the loaded state."""
        stream = self._streams[BREAKER_STREAM + request.name]
        happened = breakers.decide(stream.state, request.command)
        meta, text = self._meta(request.origin, request.command.now)
        for event in happened:
            version = stream.version + 1
            stream.state = breakers.evolve(stream.state, request.name, version, event, meta)
            stream.events.append(_new(event, text))
        self._settle(index, stream, BreakerActed(state=stream.state, events=happened))

    def record(self, index: int, request: RecordDaemon) -> None:
        """Add an event of a daemon."""
        name = DAEMON_STREAM + request.worker
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = Stream(name, None, None, is_stored=True)
        self.recorded[index] = len(stream.events)
        _, text = self._meta(request.origin, request.now)
        stream.events.append(_new(request.event, text))
        self.rests_on[index] = name


def _start(claim: ClaimTasks) -> c.Start:
    return c.Start(now=claim.now, worker=claim.worker, max_crashes=claim.max_crashes)


def _new(event: e.Event, meta: str) -> NewEvent:
    return NewEvent(_OTHER_NAMES[type(event)], e.encode(event), meta)


def resubmitted(request: SubmitTask, state: TaskState, code: str) -> Outcome:
    """Return the outcome of a submission whose id or key is taken by `state`."""
    if state.body_hash == request.command.submitted.body_hash:
        return Submitted(state=state, created=False)
    taken = f"id {state.id!r}"
    if code == "key_conflict":
        taken = f"idempotency key {state.idempotency_key!r} (task {state.id})"
    detail = f"{taken} belongs to a task with another body"
    return Refusal(code=code, detail=detail, state=state)


def _require_storable(state: TaskState | None) -> None:
    row = {} if state is None else task_row(state)
    for name, value in row.items():
        if isinstance(value, str) and "\0" in value:
            raise ValueError(f"{name} holds NUL, which the database does not store")


def _require_in_range(state: TaskState) -> None:
    for name in ("priority", "max_attempts", "run_at"):
        if not -_INT64_MAX <= getattr(state, name) <= _INT64_MAX:
            raise ValueError(f"{name} does not fit into 64 bits")
