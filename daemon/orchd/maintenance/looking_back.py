"""Looks back: the tasks as they were at a position of the log, or at an instant."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from orchd.ledger.bodies import load_bodies
from orchd.ledger.port import QueueView
from orchd.ledger.rows import breaker_state, queue_state
from orchd.maintenance.errors import NoSuchTask
from orchd.maintenance.folding import BREAKERS, QUEUES, TASKS, Kind, expect
from orchd.maintenance.opening import reading
from orchd.maintenance.progress import Progress, silent
from orchd.maintenance.reading import StateReader
from orchd.operations.surroundings import Surroundings
from orchd.operations.views import task_view
from orchd.system import System
from orchd.tasks.state import TaskState

PAGE_POSITIONS = 50_000
"""Positions of the log that one search for new tasks looks at."""
PAGE_KEYS = 200
"""Streams that are folded from one read."""


class _Moment(NamedTuple):
    """A place in the log, and when that was."""

    position: int
    now: int


def states_at(
    url: str,
    *,
    system: System,
    position: int | None = None,
    instant: int | None = None,
    task_id: str | None = None,
    progress: Progress | None = None,
) -> Iterator[TaskState]:
    """Yield the tasks as they were after the event at `position`, or at `instant`.

    Tasks come in the order in which they were submitted. `instant` is in microseconds and
    goes by the times at which the database recorded the events. With `task_id` only that
    task is yielded.

    Raises:
        NoSuchTask: `task_id` was not submitted before.
    """
    with reading(url, system=system) as reader:
        moment = _moment(reader, position, instant)
        yield from _states_at(reader, moment, task_id, progress or silent)


def views_at(
    url: str,
    *,
    system: System,
    position: int | None = None,
    instant: int | None = None,
    task_id: str | None = None,
    progress: Progress | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield what `states_at` does as tasks are shown everywhere else."""
    with reading(url, system=system) as reader:
        moment = _moment(reader, position, instant)
        around = _surroundings(reader, moment)
        for state in _states_at(reader, moment, task_id, progress or silent):
            [bodies] = load_bodies([state], reader.store.blobs)
            view = task_view(state, bodies, around)
            item: dict[str, Any] = json.loads(msgspec.json.encode(view))
            yield item


def _states_at(
    reader: StateReader, moment: _Moment, task_id: str | None, progress: Progress
) -> Iterator[TaskState]:
    last = moment.position
    if task_id is not None:
        found = list(_states(reader, (task_id,), last))
        if not found:
            raise NoSuchTask(task_id, last)
        yield from found
        return
    for start in range(0, last, PAGE_POSITIONS):
        stop = min(last, start + PAGE_POSITIONS)
        with reader.snapshot() as snapshot:
            keys = snapshot.keys_begun(TASKS, start, stop)
        yield from _states(reader, keys, last)
        progress("events", stop, last)


def _states(reader: StateReader, keys: tuple[str, ...], up_to: int) -> Iterator[TaskState]:
    for start in range(0, len(keys), PAGE_KEYS):
        some = keys[start : start + PAGE_KEYS]
        with reader.snapshot() as snapshot:
            histories = snapshot.histories(TASKS, some, up_to)
        for key in some:
            task = expect(TASKS, key, histories[key]).task
            if task is not None:
                yield task


def _moment(reader: StateReader, position: int | None, instant: int | None) -> _Moment:
    last = reader.store.head().position
    if position is not None:
        last = min(last, position)
    if instant is not None:
        last = min(last, _position_at(reader, instant))
    if instant is None:
        events = reader.store.read_all(after=last - 1, limit=1) if last else []
        instant = events[0].recorded_at if events else 0
    return _Moment(last, instant)


def _position_at(reader: StateReader, instant: int) -> int:
    """Return the last position recorded at or before an instant; times never fall."""
    low, high = 0, reader.store.head().position
    while low < high:
        middle = (low + high + 1) // 2
        event = reader.store.read_all(after=middle - 1, limit=1)[0]
        if event.recorded_at <= instant:
            low = middle
        else:
            high = middle - 1
    return low


# --- what stood around the tasks then -------------------------------------------------


def _surroundings(reader: StateReader, moment: _Moment) -> Surroundings:
    """Return what is known of the queues and breakers of that moment.

    Leases are rows, not events: nothing tells which daemons were alive.
    """
    queues = (queue_state(row) for row in _rows_at(reader, QUEUES, moment))
    breakers = (breaker_state(row) for row in _rows_at(reader, BREAKERS, moment))
    return Surroundings(
        now=moment.now,
        queues={
            queue.name: QueueView(
                name=queue.name,
                paused=queue.paused,
                reason=queue.reason,
                depth={},
                oldest_ready_at=None,
                version=queue.version,
                changed_at=queue.changed_at,
            )
            for queue in queues
        },
        breakers={breaker.name: breaker for breaker in breakers},
        workers=(),
        limits={},
    )


def _rows_at(reader: StateReader, kind: Kind, moment: _Moment) -> Iterator[tuple[Any, ...]]:
    with reader.snapshot() as snapshot:
        keys = snapshot.keys_after(kind, "", PAGE_KEYS)
        histories = snapshot.histories(kind, keys, moment.position)
    for key in keys:
        row = expect(kind, key, histories[key]).row
        if row is not None:
            yield tuple(row[name] for name in kind.columns)
