"""The quick look at some streams: which of their rows have to be looked at closely.

Tasks are folded and compared as whole rows. Whatever does not pass is only suspected here,
so this may suspect too much, but never too little.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from orchd.interfaces import TaskStatus
from orchd.ledger.rows import TASK_COLUMNS
from orchd.maintenance.derivation import (
    ASIDE_COLUMNS,
    COPIED,
    READY_COLUMNS,
    RUNNING_COLUMNS,
    TIMER_COLUMNS,
)
from orchd.maintenance.folding import KINDS, TASKS, Event, Kind, kind_of, task_values
from orchd.maintenance.reading import Snapshot
from orchd.tasks.folding import BrokenStream

Values = tuple[Any, ...]
"""A row of `tasks` in the order of `TASK_COLUMNS`."""
_STATUS, _VERSION, _REASON, _UNTIL, _UPDATED, _CREATED, _WORKER, _ASKED = map(
    TASK_COLUMNS.index,
    (
        "status",
        "version",
        "waiting_reason",
        "waiting_until",
        "updated_at",
        "created_at",
        "worker",
        "cancel_requested",
    ),
)
_copied = itemgetter(*map(TASK_COLUMNS.index, COPIED))
_stream = itemgetter(0)
_PENDING, _IN_PROGRESS = TaskStatus.PENDING.value, TaskStatus.IN_PROGRESS.value
_COMPLETED = TaskStatus.COMPLETED.value


class Screening(NamedTuple):
    """What a quick look at some streams saw."""

    suspects: dict[Kind, list[str]]
    """The keys of everything that has to be looked at closely."""
    tasks: int
    """How many tasks have a row, right or wrong."""


def screen(snapshot: Snapshot, events: Sequence[Event]) -> Screening:
    """Fold the tasks among some streams and compare them with their rows."""
    suspects: dict[Kind, list[str]] = {kind: [] for kind in KINDS}
    expected = _fold(events, suspects)
    wrong, tasks = _wrong_rows(snapshot, expected)
    pending = {
        key: row
        for key, row in expected.items()
        if row[_STATUS] == _PENDING and key not in wrong
    }
    suspects[TASKS] += sorted(wrong) + _doubtful_derived(snapshot, pending)
    suspects[TASKS] += _doubtful_lists(snapshot, expected, wrong)
    return Screening({kind: keys for kind, keys in suspects.items() if keys}, tasks)


def _fold(events: Sequence[Event], suspects: dict[Kind, list[str]]) -> dict[str, Values]:
    """Return the rows of the tasks that can be folded; note all other streams."""
    rows: dict[str, Values] = {}
    for stream, history in groupby(events, _stream):
        kind, key = kind_of(stream)
        if kind is TASKS:
            # What cannot be folded is named by whoever looks closely.
            try:
                rows[key] = task_values(key, list(history))
            except (KeyError, ValueError, BrokenStream, msgspec.MsgspecError):
                suspects[TASKS].append(key)
        elif kind is not None:
            suspects[kind].append(key)
    return rows


def _wrong_rows(snapshot: Snapshot, expected: dict[str, Values]) -> tuple[set[str], int]:
    """Return the tasks whose rows are not these, and how many of them have a row."""
    found = snapshot.rows_about(TASKS.table, TASKS.key, TASKS.columns, list(expected))
    # Nearly always they are the same rows in the same order.
    if found == list(expected.values()):
        return set(), len(found)
    wrong, tasks = set(expected), 0
    for stored in found:
        row = expected.get(stored[0])
        tasks += row is not None
        # SQLite has no booleans, but its integers compare equal to them.
        if stored == row:
            wrong.discard(stored[0])
    return wrong, tasks


def _doubtful_derived(snapshot: Snapshot, pending: dict[str, Values]) -> list[str]:
    """Return the pending tasks whose derived rows are not the obvious ones.

    Since when a task is ready is obvious only as long as nothing happened to it.
    """
    keys = list(pending)
    stored = {
        table: {row[0]: row for row in snapshot.rows_about(table, "task_id", names, keys)}
        for table, names in (("ready", READY_COLUMNS), ("timers", TIMER_COLUMNS))
    }
    return [
        key
        for key, row in pending.items()
        if row[_VERSION] > 1
        or (stored["ready"].get(key), stored["timers"].get(key)) != _obvious(key, row)
    ]


def _doubtful_lists(
    snapshot: Snapshot, expected: dict[str, Values], wrong: set[str]
) -> list[str]:
    """Return the tasks that are listed by their status, and not as they should be.

    Tasks that are listed and should not be are found by the search for strays.
    """
    wanted: dict[str, dict[str, Values]] = {"running": {}, "aside": {}}
    for key, row in expected.items():
        if row[_STATUS] != _COMPLETED and key not in wrong:
            for table, listed in _listed(key, row):
                wanted[table][key] = listed
    doubtful: list[str] = []
    for table, names in (("running", RUNNING_COLUMNS), ("aside", ASIDE_COLUMNS)):
        stored = snapshot.rows_about(table, "task_id", names, list(wanted[table]))
        found = {row[0]: tuple(row) for row in stored}
        doubtful += [key for key, row in wanted[table].items() if found.get(key) != row]
    return doubtful


def _listed(key: str, row: Values) -> Iterator[tuple[str, Values]]:
    if row[_STATUS] == _IN_PROGRESS:
        yield "running", (key, row[_WORKER], row[_ASKED])
    elif row[_STATUS] != _PENDING or (row[_REASON] is not None and row[_UNTIL] is None):
        yield "aside", (key, row[_STATUS], row[_CREATED])


def _obvious(key: str, row: Values) -> tuple[Any, Any]:
    """Return the rows in `ready` and `timers` of a task that was only submitted."""
    copied = (key, *_copied(row))
    reason, until = row[_REASON], row[_UNTIL]
    return ((*copied, row[_UPDATED]), None) if reason is None else (None, (*copied, until))
