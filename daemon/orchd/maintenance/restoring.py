"""Puts the log of a checkpoint into an empty database, and everything that follows from it.

All of it is one transaction: whoever is killed in the middle leaves an empty state behind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from itertools import groupby
from operator import itemgetter
from typing import Any

from orchd.ledger.claims import DEPTH_COUNTER
from orchd.ledger.dialects import POSTGRESQL, SQLITE
from orchd.ledger.rows import columns
from orchd.maintenance.checkpoint_file import CheckpointReader, Manifest
from orchd.maintenance.counting import EVENT_COUNTER
from orchd.maintenance.derivation import derive
from orchd.maintenance.errors import CheckpointRefused
from orchd.maintenance.examining import STRETCH_EVENTS
from orchd.maintenance.folding import TASKS, Expected, StoredEvent, expect, kind_of
from orchd.maintenance.progress import Progress
from orchd.maintenance.reading import Span, TransactionView
from orchd_eventstore import EventStore, Transaction
from orchd_eventstore.instants import EPOCH, instant_text
from orchd_eventstore.verification import Walk

PAGE_ROWS = 500

_EVENT = (
    "INSERT INTO events (position, stream, version, type, data, meta, recorded_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_COMMIT = (
    "INSERT INTO commits (last_position, command_id, events, recorded_at, hash, rules)"
    " VALUES (?, ?, ?, ?, ?, ?)"
)
_BLOB = "INSERT INTO blobs (hash, size, encoding, body) VALUES (?, ?, ?, ?)"
_ERASURE = "INSERT INTO erasures (position, data_hash, data, erased_by) VALUES (?, ?, ?, ?)"
_HEAD = "UPDATE log_head SET position = ?, hash = ?, recorded_at = ? WHERE id = 1"
_COUNTER = "INSERT INTO counters (name, value) VALUES (?, ?)"
_LOCK_HEAD = "SELECT position FROM log_head WHERE id = 1 FOR UPDATE"
_READY_SINCE = "UPDATE ready SET ready_at = ? WHERE task_id = ?"


def fill(
    store: EventStore, source: CheckpointReader, manifest: Manifest, progress: Progress
) -> None:
    """Make an empty state the one that a verified checkpoint holds, all or nothing.

    Raises:
        CheckpointRefused: the state is not empty.
    """
    with store.transaction() as transaction:
        target = _Target(transaction)
        if target.view.all(_LOCK_HEAD) != [(0,)]:
            raise CheckpointRefused(
                "the state holds events already, and a checkpoint never outranks a log; "
                "restore into an empty database"
            )
        types = _fill_log(target, source, manifest, progress)
        depths = _fill_projections(target, manifest, progress)
        for name, value in (types + depths).items():
            target.add(_COUNTER, (name, value))
        target.flush()
        transaction.commit()


def _fill_log(
    target: _Target, source: CheckpointReader, manifest: Manifest, progress: Progress
) -> Counter[str]:
    counts: Counter[str] = Counter()
    recorded_at = None
    walk = Walk(source.events, source.erasures, manifest.position)
    for commit, events, _ in walk.links(source.commits()):
        recorded_at = target.instant(commit.recorded_at)
        target.add(_COMMIT, (*commit[:3], recorded_at, *commit[4:]))
        for event in events:
            fields = (event.position, event.stream, event.version, event.type)
            target.add(_EVENT, (*fields, event.data, event.meta, recorded_at))
            counts[EVENT_COUNTER.format(type=event.type)] += 1
        progress("events", walk.position, manifest.position)
    for blob in source.blobs():
        target.add(_BLOB, blob)
        target.flush()
    for one in source.erasures(0, manifest.position):
        target.add(_ERASURE, (one.position, one.data_hash, one.data, one.erased_by))
    if recorded_at is not None:
        target.add(_HEAD, (manifest.position, manifest.hash, recorded_at))
    target.flush()
    return counts


# --- what follows from the log --------------------------------------------------------


def _fill_projections(
    target: _Target, manifest: Manifest, progress: Progress
) -> Counter[str]:
    depths: Counter[str] = Counter()
    after, is_last, done = "", False, 0
    while not is_last:
        events, is_last = target.view.stretch(Span(after, None), STRETCH_EVENTS)
        for stream, history in groupby(events, itemgetter(0)):
            kind, key = kind_of(stream)
            after = stream
            if kind is None:
                continue
            stored = [StoredEvent(*event[:5]) for event in history]
            expected = expect(kind, key, stored)
            _fill_row(target, kind.table, key, expected)
            if expected.task is not None:
                task = expected.task
                counter = DEPTH_COUNTER.format(queue=task.queue, status=task.status.value)
                depths[counter] += 1
        target.flush()
        done += len(events)
        progress("rows", done, manifest.position)
    return depths


def _fill_row(target: _Target, table: str, key: str, expected: Expected) -> None:
    row = expected.row
    if row is None:
        return
    marks = ", ".join("?" * len(row))
    text = f"INSERT INTO {table} ({columns(tuple(row))}) VALUES ({marks})"
    target.add(text, tuple(row.values()))
    if table != TASKS.table:
        return
    # The triggers go by the row; since when it has been ready, only the log can tell.
    ready = derive(expected).ready
    if ready is not None and ready["ready_at"] != row["updated_at"]:
        target.add(_READY_SINCE, (ready["ready_at"], key))


class _Target:
    """A transaction that statements travel to in groups."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._is_sqlite = transaction.placeholder == "?"
        self._dialect = SQLITE if self._is_sqlite else POSTGRESQL
        self._waiting: list[tuple[str, Sequence[Any]]] = []
        self.view = TransactionView(transaction)

    def instant(self, microseconds: int) -> Any:
        """Return an instant as the database's column takes it."""
        if self._is_sqlite:
            return instant_text(microseconds)
        return EPOCH + timedelta(microseconds=microseconds)

    def add(self, text: str, parameters: Sequence[Any]) -> None:
        """Execute a statement soon, in order."""
        self._waiting.append((self._dialect.sql(text), parameters))
        if len(self._waiting) >= PAGE_ROWS:
            self.flush()

    def flush(self) -> None:
        """Execute what waits."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._transaction.execute_all(waiting)
