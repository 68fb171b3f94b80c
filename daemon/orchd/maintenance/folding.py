"""Folds streams into the rows that they add up to, for each kind of stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from orchd import breakers, queues
from orchd.errors import SchemaTooNew, StateUnreadable
from orchd.interfaces import TaskStatus
from orchd.ledger import rows
from orchd.maintenance.single_runs import SINGLE_RUN, single_run_values
from orchd.tasks.events import DECODERS, EventMeta, decode_event, decode_meta
from orchd.tasks.folding import BrokenStream, Stamped, evolve, fold_draft
from orchd.tasks.state import TaskState


class StoredEvent(NamedTuple):
    """An event as far as folding needs it."""

    stream: str
    version: int
    type: str
    data: str
    meta: str


Event = tuple[str, int, str, str, str, int]
"""A `StoredEvent` as a driver returns it, and its position."""
History = Sequence[StoredEvent]
Row = dict[str, Any]


class Expected(NamedTuple):
    """What a stream adds up to: its row, and the rows derived from that row."""

    row: Row | None
    task: TaskState | None = None
    ready_since: int | None = None
    """For a task: since when it has been as ready, or as waiting, as it is."""


class Kind(NamedTuple):
    """One kind of stream with its projection."""

    table: str
    key: str
    """The column that names the row."""
    prefix: str
    """The stream's name is this and the row's key."""
    columns: tuple[str, ...]
    expect: Callable[[str, History], Expected]


class UnreadableStream(StateUnreadable):
    """A stream holds what this program cannot fold."""

    def __init__(self, stream: str, reason: object) -> None:
        super().__init__(
            f"stream {stream} cannot be folded: {reason}; if `orchd log verify` finds no "
            "fault, a newer orchd wrote it: use that release"
        )


class NewerStream(UnreadableStream):
    """A stream holds an event of a type that this program does not know."""

    exit_code = SchemaTooNew.exit_code


def fold_task(task_id: str, history: History) -> Expected:
    """Return the row of a task, and since when it has been ready.

    The database derives readiness when a commit changes the row, so the states between
    two events of one commit count for nothing; `meta.causation` names the commit.
    """
    state: TaskState | None = None
    settled: TaskState | None = None
    since, command = None, None
    for event in history:
        meta = decode_meta(event.meta)
        if meta.causation != command:
            settled, command = state, meta.causation
        decoded = decode_event(event.type, event.data)
        state = evolve(state, Stamped(task_id, event.version, decoded, meta))
        if settled is None or _readiness(settled) != _readiness(state):
            since = state.updated_at
    row = None if state is None else rows.task_row(state)
    return Expected(row=row, task=state, ready_since=since)


def task_values(task_id: str, history: Sequence[Event]) -> tuple[Any, ...]:
    """Return values that equal those of the row that `fold_task` does, in its order.

    It does not look at readiness, and is much faster.

    Raises:
        KeyError: the stream holds an unknown event.
        ValueError: it holds a damaged one.
        BrokenStream: it does not begin with a submission.
    """
    if [event[2] for event in history] == SINGLE_RUN:
        return single_run_values(task_id, history)
    draft = fold_draft(
        [
            (task_id, version, DECODERS[name](data), decode_meta(meta))
            for _, version, name, data, meta, _ in history
        ]
    )
    return () if draft is None else rows.task_values(draft)


def _readiness(state: TaskState) -> tuple[TaskStatus, str | None, int | None]:
    return (state.status, state.waiting_reason, state.waiting_until)


def _fold_queue(name: str, history: History) -> Expected:
    state: queues.QueueState | None = None
    for event, decoded, meta in _decoded(history, queues.EVENT_TYPES):
        state = queues.evolve(state, name, event.version, decoded, meta)
    return Expected(row=None if state is None else rows.queue_row(state))


def _fold_breaker(name: str, history: History) -> Expected:
    state: breakers.BreakerState | None = None
    for event, decoded, meta in _decoded(history, breakers.EVENT_TYPES):
        state = breakers.evolve(state, name, event.version, decoded, meta)
    return Expected(row=None if state is None else rows.breaker_row(state))


def _decoded(
    history: History, types: Mapping[str, Any]
) -> list[tuple[StoredEvent, Any, EventMeta]]:
    return [
        (
            event,
            msgspec.json.decode(event.data, type=types[event.type]),
            decode_meta(event.meta),
        )
        for event in history
    ]


TASKS = Kind("tasks", "id", "task-", rows.TASK_COLUMNS, fold_task)
QUEUES = Kind("queues", "name", "queue-", rows.QUEUE_COLUMNS, _fold_queue)
BREAKERS = Kind("breakers", "name", "breaker-", rows.BREAKER_COLUMNS, _fold_breaker)
KINDS = (TASKS, QUEUES, BREAKERS)
_BY_PREFIX = {kind.prefix: kind for kind in KINDS}


def kind_of(stream: str) -> tuple[Kind | None, str]:
    """Return which kind of stream a name belongs to, and the key of its row."""
    word, hyphen, key = stream.partition("-")
    return _BY_PREFIX.get(word + hyphen), key


def expect(kind: Kind, key: str, history: History) -> Expected:
    """Return what a stream adds up to.

    Raises:
        NewerStream: it holds an unknown event.
        UnreadableStream: it holds one that is damaged.
    """
    try:
        return kind.expect(key, history)
    except KeyError as unknown:
        raise NewerStream(kind.prefix + key, f"unknown event {unknown}") from unknown
    except (BrokenStream, msgspec.MsgspecError, ValueError) as error:
        raise UnreadableStream(kind.prefix + key, error) from error
