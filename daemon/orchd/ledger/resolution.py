"""Answers a command that is in the log already from what it left there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from orchd import breakers, queues
from orchd.ledger.dialects import Dialect
from orchd.ledger.plan import (
    BREAKER_STREAM,
    DAEMON_STREAM,
    QUEUE_STREAM,
    TASK_STREAM,
    Pair,
    Plan,
)
from orchd.ledger.port import (
    ActOnTask,
    ClaimTasks,
    RecordDaemon,
    Request,
    SetQueue,
    SubmitTask,
)
from orchd.tasks import events as e
from orchd.tasks.machine import Stamped, evolve, fold
from orchd.tasks.state import TaskState
from orchd_eventstore import EventStore, RecordedEvent, Session

SEARCHED_COMMITS = 2_000
"""How far back the parts of a batch that was split are looked for."""

_WHOLE = "SELECT last_position - events, last_position FROM commits WHERE command_id = ?"
_PARTS = (
    "SELECT last_position - events, last_position FROM"
    " (SELECT * FROM commits ORDER BY last_position DESC LIMIT ?) AS recent"
    " WHERE substr(command_id, 1, ?) = ? ORDER BY last_position"
)

Ranges = Sequence[tuple[int, int]]


def find_commit(session: Session, dialect: Dialect, command_id: str) -> Ranges:
    """Return where the command's events are: (position before, last position) of each
    commit that it made. A batch with a bad item is stored in parts."""
    prefix = f"{command_id}/"
    whole, parts = session.execute_all(
        [
            (dialect.sql(_WHOLE), (command_id,)),
            (dialect.sql(_PARTS), (SEARCHED_COMMITS, len(prefix), prefix)),
        ]
    )
    return [(first, last) for first, last in whole or parts]


def stamped(events: Iterable[RecordedEvent]) -> list[Stamped]:
    """Return a task's stored events as the state machine takes them."""
    return [
        Stamped(
            event.stream.removeprefix(TASK_STREAM),
            event.version,
            e.decode_event(event.type, event.data),
            e.decode_meta(event.meta),
        )
        for event in events
    ]


class Resolution:
    """Decides pending requests again, on the states that the commit found.

    `decide` is pure, so it comes to what the log holds. Requests that left nothing in the
    commit get no outcome here.
    """

    def __init__(
        self,
        store: EventStore,
        requests: Sequence[Request],
        pending: Sequence[int],
        ranges: Ranges,
    ) -> None:
        self.plan = Plan("")
        self.positions: dict[int, int] = {}
        """Request -> position of the daemon's event that it recorded."""
        self._store = store
        self._streams: dict[str, list[RecordedEvent]] = {}
        for first, last in ranges:
            for event in store.read_all(after=first, up_to=last, limit=last - first):
                self._streams.setdefault(event.stream, []).append(event)
        self._loaded: set[str] = set()
        self._claimed: set[str] = set()
        for index in pending:
            self._answer(index, requests[index])

    def _answer(self, index: int, request: Request) -> None:
        if isinstance(request, ClaimTasks):
            self._answer_claim(index, request)
        elif isinstance(request, SubmitTask | ActOnTask):
            self._answer_task(index, request)
        elif isinstance(request, RecordDaemon):
            events = self._streams.get(DAEMON_STREAM + request.worker)
            if events:
                self.positions[index] = events.pop(0).position
        elif isinstance(request, SetQueue):
            if self._load(QUEUE_STREAM + request.name, "queues", _fold_queue):
                self.plan.set_queue(index, request)
        elif self._load(BREAKER_STREAM + request.name, "breakers", _fold_breaker):
            self.plan.act_on_breaker(index, request)

    def _answer_task(self, index: int, request: SubmitTask | ActOnTask) -> None:
        if not self._load(TASK_STREAM + request.task_id, "tasks", _fold_task):
            return
        if isinstance(request, SubmitTask):
            self.plan.submit(index, request)
        else:
            self.plan.act(index, request, use_known=False)

    def _load(self, stream: str, projection: str, folded: Any) -> bool:
        events = self._streams.get(stream)
        if events is None:
            return False
        if stream not in self._loaded:
            self._loaded.add(stream)
            self.plan.load(stream, projection, folded(self._before(stream, events[0])))
        return True

    def _before(self, stream: str, first: RecordedEvent) -> list[RecordedEvent]:
        if first.version == 1:
            return []
        return self._store.read_stream(stream, limit=first.version - 1)

    def _answer_claim(self, index: int, claim: ClaimTasks) -> None:
        pairs = self.plan.claims.setdefault(index, [])
        for stream, events in self._streams.items():
            place = self._place_of_claim(stream, events, claim)
            if place is None or len(pairs) >= claim.slots:
                continue
            history = [*self._before(stream, events[0]), *events[:place]]
            before = _fold_task(history)
            if before is None or claim.probe not in (None, before.executor):
                continue
            self._claimed.add(stream)
            pairs.append(Pair(before, evolve(before, stamped([events[place]])[0])))

    def _place_of_claim(
        self, stream: str, events: Sequence[RecordedEvent], claim: ClaimTasks
    ) -> int | None:
        # A task that this commit gave back may be claimed by it, too.
        if stream in self._claimed:
            return None
        for place, event in enumerate(events):
            if event.type == "task.started":
                started = e.decode_event(event.type, event.data)
                mine = isinstance(started, e.TaskStarted) and started.worker == claim.worker
                return place if mine else None
        return None


def _fold_task(events: list[RecordedEvent]) -> TaskState | None:
    return fold(stamped(events))


def _fold_queue(events: list[RecordedEvent]) -> queues.QueueState | None:
    state: queues.QueueState | None = None
    for event in events:
        name = event.stream.removeprefix(QUEUE_STREAM)
        happened = msgspec.json.decode(event.data, type=queues.EVENT_TYPES[event.type])
        meta = e.decode_meta(event.meta)
        state = queues.evolve(state, name, event.version, happened, meta)
    return state


def _fold_breaker(events: list[RecordedEvent]) -> breakers.BreakerState | None:
    state: breakers.BreakerState | None = None
    for event in events:
        name = event.stream.removeprefix(BREAKER_STREAM)
        happened = msgspec.json.decode(event.data, type=breakers.EVENT_TYPES[event.type])
        meta = e.decode_meta(event.meta)
        state = breakers.evolve(state, name, event.version, happened, meta)
    return state
