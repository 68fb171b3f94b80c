"""Tasks, their large bodies, and the workers that hold them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

from orchd.ledger.rows import task_state
from orchd.maintenance.findings import (
    SHOWN_MAX,
    Examination,
    Finding,
    counted,
    fail,
    ok,
    warn,
)
from orchd.maintenance.folding import TASKS
from orchd.maintenance.reading import StateReader
from orchd.tasks.erasing import ERASED_HASH
from orchd.tasks.invariants import state_violations

PAGE_KEYS = 1_000
PAGE_POSITIONS = 20_000
ORPHANS_MAX = 10_000
"""Most bodies that one search for their events looks for."""
BODY_COLUMNS = ("description_blob", "payload_blob", "result_blob")

_REFERENCE = re.compile(r'"\$blob":"([0-9a-f]{64})"')
_MISSING = (
    "SELECT t.id FROM tasks AS t WHERE t.{column} IS NOT NULL"
    f" AND t.{{column}} <> '{ERASED_HASH}'"
    " AND NOT EXISTS (SELECT 1 FROM blobs AS b WHERE b.hash = t.{column})"
)
_UNUSED = "SELECT hash FROM blobs AS b WHERE " + " AND ".join(
    f"NOT EXISTS (SELECT 1 FROM tasks AS t WHERE t.{column} = b.hash)"
    for column in BODY_COLUMNS
)
_REFERRING = "SELECT data FROM events WHERE position > ? AND position <= ? AND data LIKE ?"


def tasks(examination: Examination) -> Iterator[Finding]:
    """Check what holds of every task at every instant."""
    broken: list[str] = []
    count = 0
    for row in _rows(examination.reader):
        count += 1
        if len(broken) < SHOWN_MAX:
            broken += [f"task {row[0]}: {rule}" for rule in _violations(row)]
        if count % PAGE_KEYS == 0:
            examination.progress("tasks", count, None)
    for sentence in broken[:SHOWN_MAX]:
        yield fail("tasks", f"a rule does not hold: {sentence}")
    if not broken:
        yield ok("tasks", f"{counted(count, 'task')}, each live or ended as it should be")


def _rows(reader: StateReader) -> Iterator[tuple[Any, ...]]:
    after = ""
    while True:
        with reader.snapshot() as snapshot:
            keys = snapshot.keys_after(TASKS, after, PAGE_KEYS)
            rows = snapshot.rows(TASKS.table, TASKS.key, TASKS.columns, keys)
        if not keys:
            return
        yield from rows
        after = keys[-1]


def _violations(row: tuple[Any, ...]) -> list[str]:
    try:
        return state_violations(task_state(row))
    except (ValueError, KeyError, TypeError) as error:
        return [f"its row cannot be read ({error!r})"]


def bodies(examination: Examination) -> Iterator[Finding]:
    """Look for large bodies that are missing, damaged, or nobody's."""
    reader = examination.reader
    damaged, count = _damaged(examination)
    missing = _missing(reader)
    unused = orphans(examination)
    for name in damaged[:SHOWN_MAX]:
        yield fail("bodies", f"body {name} is not as it was stored", "look at the disk")
    if len(damaged) > SHOWN_MAX:
        yield fail("bodies", f"and {len(damaged) - SHOWN_MAX:,} more are damaged")
    if missing:
        names = ", ".join(missing[:SHOWN_MAX]) + ("…" if len(missing) > SHOWN_MAX else "")
        yield fail("bodies", f"{counted(len(missing), 'task')} lost a large body: {names}")
    if unused:
        what = counted(len(unused), "large body", "large bodies")
        hint = "`orchd doctor --repair` removes what belongs to nothing"
        yield warn("bodies", f"{what} belong to no event", hint)
    if not damaged and not missing and not unused:
        what = counted(count, "large body", "large bodies")
        whole = f"{what}, each as it was stored" if count else "there are no large ones"
        yield ok("bodies", whole)


def _damaged(examination: Examination) -> tuple[list[str], int]:
    after, count = "", 0
    found: list[str] = []
    while True:
        row = examination.reader.store.next_blob(after)
        if row is None:
            return found, count
        after, size, _, body = row
        count += 1
        if len(body) != size or hashlib.sha256(body).hexdigest() != after:
            found.append(after)
        examination.progress("bodies", count, None)


def _missing(reader: StateReader) -> list[str]:
    union = " UNION ".join(_MISSING.format(column=column) for column in BODY_COLUMNS)
    with reader.snapshot(patient=True) as snapshot:
        return [row[0] for row in snapshot.all(f"{union} ORDER BY 1")]


def orphans(examination: Examination) -> list[str]:
    """Return the bodies that neither a row nor an event refers to."""
    reader = examination.reader
    with reader.snapshot(patient=True) as snapshot:
        unused = {row[0] for row in snapshot.all(f"{_UNUSED} LIMIT {ORPHANS_MAX:d}")}
    head = reader.store.head().position if unused else 0
    for start in range(0, head, PAGE_POSITIONS):
        # An earlier round's result is referred to by its event alone.
        with reader.snapshot() as snapshot:
            stop = start + PAGE_POSITIONS
            for (data,) in snapshot.all(_REFERRING, (start, stop, '%"$blob"%')):
                unused.difference_update(_REFERENCE.findall(data))
    return sorted(unused)


def workers(examination: Examination) -> Iterator[Finding]:
    """Look for tasks that are held by nobody who lives."""
    now = examination.reader.store.now()
    with examination.reader.snapshot() as snapshot:
        held = snapshot.all(
            "SELECT worker, count(*) FROM tasks WHERE status = 'in_progress'"
            " GROUP BY worker ORDER BY worker"
        )
        leases = snapshot.all("SELECT id, expires_at, fenced FROM workers")
    live = {row[0] for row in leases if row[1] > now and not row[2]}
    stale = [(worker, count) for worker, count in held if worker not in live]
    for worker, count in stale[:SHOWN_MAX]:
        yield warn(
            "workers",
            f"worker {worker} is gone and holds {counted(count, 'task')}",
            "a daemon takes them back as soon as one runs",
        )
    if not stale:
        detail = f"{counted(len(live), 'daemon')} at work; nobody else holds a task"
        yield ok("workers", detail)
