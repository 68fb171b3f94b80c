"""Erases the bodies of a finished task from the log, its row and the large bodies.

It takes three steps, so that nothing depends on any of them being the last: the log says
what is erased, in an event that the chain covers; large bodies go that no other task has;
and the data of the events and the row are replaced, in one transaction. Whatever is left
undone by a crash is announced, and is done by the next call.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from orchd.errors import StateUnreadable
from orchd.ledger.rows import task_values
from orchd.maintenance.folding import TASKS, StoredEvent, expect
from orchd.maintenance.reading import StateReader
from orchd.system import System
from orchd.tasks.erasing import without_bodies
from orchd.tasks.events import TaskEvent, decode_event, encode
from orchd.tasks.state import TaskState
from orchd_eventstore import Erasure, EventStore, RecordedEvent
from orchd_eventstore.chain import data_hash
from orchd_eventstore.erasing import Listing, announced, listing

TRIES = 5
"""How often erasing is begun anew because the task moved meanwhile."""

_BLOB = re.compile(r'"\$blob":"([0-9a-f]{64})"')
_RULES = (
    "SELECT count(*) FROM events AS e JOIN commits AS c ON c.last_position ="
    " (SELECT min(last_position) FROM commits WHERE last_position >= e.position)"
    " WHERE e.stream = ? AND c.rules < 2"
)
_COLUMNS = ("description_blob", "payload_blob", "result_blob")
_REFERRED = " OR ".join(f"t.{column} = {{hash}}" for column in _COLUMNS)
_DROP_SQLITE = (
    "DELETE FROM blobs WHERE hash = ? AND NOT EXISTS (SELECT 1 FROM tasks AS t"
    f" WHERE t.id <> ? AND ({_REFERRED.format(hash='?')}))"
)
# One statement, so that a frozen client holds no lock. Whoever stores a large body at this
# moment has the table's lock until its task can be seen, and is waited for; whoever comes
# later stores the body anew.
_DROP_POSTGRESQL = """\
DO $$ BEGIN
  LOCK TABLE blobs IN SHARE ROW EXCLUSIVE MODE;
  DELETE FROM blobs WHERE hash = '{hash}' AND NOT EXISTS (
    SELECT FROM tasks AS t
    WHERE t.id <> convert_from(decode('{task}', 'hex'), 'UTF8') AND ({referred}));
END $$"""


class Prepared(NamedTuple):
    """What the log has to say before a task's bodies can be erased."""

    version: int
    """Of the stream that was looked at."""
    erased: tuple[Listing, ...]
    """What no event announces yet; empty when there is nothing left to announce."""


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What was erased now."""

    events: int
    bodies: int
    """Large bodies that were stored apart."""


def prepare(store: EventStore, system: System, state: TaskState) -> Prepared:
    """Find out what has to be announced.

    Raises:
        StateUnreadable: a release before this one wrote events of the task; the chain
            covers their data themselves and would break.
    """
    reader = _reader(store, system)
    stream = TASKS.prefix + state.id
    with reader.snapshot() as snapshot:
        if snapshot.all(_RULES, (stream,)) != [(0,)]:
            raise StateUnreadable(
                f"task {state.id} was written by an older release, whose chain covers "
                "the bodies themselves; it cannot be erased from the log"
            )
    events = store.read_stream(stream)
    told = {one for event in events for one in announced(event.data)}
    wanted = listing((e.position, e.data, _erased(e)) for e in events if _holds(e))
    new = tuple(one for one in wanted if one not in told)
    return Prepared(events[-1].version if events else 0, new)


def carry_out(store: EventStore, task_id: str) -> Done:
    """Erase what the log announces of a task; nothing when that has been done.

    Raises:
        StateUnreadable: the task kept moving.
    """
    bodies = 0
    for _ in range(TRIES):
        events = store.read_stream(TASKS.prefix + task_id)
        erasures = list(_announced_erasures(events))
        if not erasures:
            return Done(events=0, bodies=bodies)
        with store.scrubbing():
            bodies += _drop_bodies(store, task_id, events)
            if _replace(store, erasures, _state_after(task_id, events, erasures)):
                return Done(events=len(erasures), bodies=bodies)
    raise StateUnreadable(f"task {task_id} moved again and again; try again")


def is_unfinished(events: Sequence[RecordedEvent]) -> bool:
    """Tell whether a task's events hold what one of them calls erased."""
    return any(True for _ in _announced_erasures(events))


def drop_orphan(store: EventStore, name: str) -> bool:
    """Remove a large body that no event refers to; False when a task has it by now."""
    _drop_body(store, "", name)
    return store.blob(name) is None


def _state_after(
    task_id: str, events: Sequence[RecordedEvent], erasures: Sequence[Erasure]
) -> TaskState:
    replaced = {one.position: one.data for one in erasures}
    history = [
        StoredEvent(e.stream, e.version, e.type, replaced.get(e.position, e.data), e.meta)
        for e in events
    ]
    task = expect(TASKS, task_id, history).task
    assert task is not None
    return task


def _announced_erasures(events: Sequence[RecordedEvent]) -> Iterator[Erasure]:
    announcements = {
        one: event.position for event in events for one in announced(event.data)
    }
    for event in events:
        if not _holds(event):
            continue
        now = _erased(event)
        found = announcements.get((event.position, data_hash(event.data), data_hash(now)))
        if found is not None:
            yield Erasure(
                position=event.position,
                data_hash=data_hash(event.data),
                data=now,
                erased_by=found,
            )


def _erased(event: RecordedEvent) -> str:
    return encode(without_bodies(_decoded(event)))


def _holds(event: RecordedEvent) -> bool:
    """Tell whether an event holds something that is to be erased."""
    decoded = _decoded(event)
    return without_bodies(decoded) != decoded


def _decoded(event: RecordedEvent) -> TaskEvent:
    try:
        return decode_event(event.type, event.data)
    except (KeyError, msgspec.MsgspecError) as error:
        raise StateUnreadable(
            f"the event at position {event.position} cannot be read ({error}); "
            "use the release that wrote it"
        ) from error


def _replace(store: EventStore, erasures: Sequence[Erasure], task: TaskState) -> bool:
    """Replace data and row in one transaction; False when the task moved meanwhile."""
    mark = store.placeholder
    changes = ", ".join(f'"{name}" = {mark}' for name in TASKS.columns)
    update = f"UPDATE tasks SET {changes} WHERE id = {mark} AND version = {mark}"
    row = (*task_values(task), task.id, task.version)
    with store.transaction() as transaction:
        if not transaction.execute(f"{update} RETURNING id", row):
            return False
        transaction.erase(erasures)
        transaction.commit()
    return True


def _drop_bodies(store: EventStore, task_id: str, events: Sequence[RecordedEvent]) -> int:
    """Remove large bodies that no other task has; return how many that were."""
    names = {name for event in events for name in _BLOB.findall(event.data)}
    stored = [name for name in sorted(names) if store.blob(name) is not None]
    for name in stored:
        _drop_body(store, task_id, name)
    return sum(store.blob(name) is None for name in stored)


def _drop_body(store: EventStore, task_id: str, name: str) -> None:
    """Remove a large body unless a task other than this one has it."""
    if _is_sqlite(store):
        with store.transaction() as transaction:
            transaction.execute(_DROP_SQLITE, (name, task_id, name, name, name))
            transaction.commit()
        return
    quoted = _REFERRED.format(hash=f"'{name}'")
    task = task_id.encode().hex()
    statement = _DROP_POSTGRESQL.format(hash=name, task=task, referred=quoted)
    with store.connect_reader() as connection:
        connection.execute(statement)


def _is_sqlite(store: EventStore) -> bool:
    return store.placeholder == "?"


def _reader(store: EventStore, system: System) -> StateReader:
    return StateReader(store, system, postgresql=not _is_sqlite(store))
