"""Replays the log and compares it with everything that is derived from it.

Checking, mending and looking back are one loop over pages of streams. Checking only reads
and may run beside a daemon; mending rewrites what differs, page by page.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchd.maintenance.counting import (
    compare_counters,
    corrections,
    recount,
    stored_counters,
)
from orchd.maintenance.derivation import Derived, compare_derived
from orchd.maintenance.difference import Difference, compare
from orchd.maintenance.folding import KINDS, TASKS, expect
from orchd.maintenance.mending import Mender
from orchd.maintenance.opening import reading
from orchd.maintenance.progress import Progress, silent
from orchd.maintenance.reading import PAGE_POSITIONS, Page, StateReader
from orchd.system import System
from orchd.tasks.state import TaskState

NOTHING = Derived(None, None)
PAGE_KEYS = 200
"""Streams that are folded from one read."""


def check(
    url: str,
    *,
    system: System,
    task_id: str | None = None,
    progress: Progress | None = None,
) -> Iterator[Difference]:
    """Yield every difference between the log and what is derived from it.

    Changes nothing and may run beside a daemon. With `task_id` only that task is looked
    at, and no counter.

    Raises:
        StateMissing: there is no state.
        UnreadableStream: a stream holds an unknown or damaged event.
    """
    with reading(url, system=system) as reader:
        changes: dict[str, int] = {}
        for found in _pages(reader, task_id, progress or silent):
            for name, delta in _depth_changes(found).items():
                changes[name] = changes.get(name, 0) + delta
            yield from found.differences
        if task_id is None:
            yield from _check_counters(reader, changes)


def mend(
    url: str,
    *,
    system: System,
    task_id: str | None = None,
    progress: Progress | None = None,
) -> Iterator[Difference]:
    """Yield every difference, each mended from the log when it is yielded.

    Small transactions, so PostgreSQL's daemons go on meanwhile. A SQLite state is locked
    when the first difference is found.

    Raises:
        StateLocked: something has to be mended, but a daemon has the SQLite state open.
    """
    with reading(url, system=system) as reader, Mender(url, system=system) as mender:
        for found in _pages(reader, task_id, progress or silent):
            if found.differences:
                mender.mend_rows(found.page.kind, found.keys)
                yield from found.differences
        if task_id is None:
            differences = tuple(_check_counters(reader, {}))
            if differences:
                mender.mend_counters()
                yield from differences


class _Found:
    """What comparing one page found."""

    def __init__(self, page: Page, now: int) -> None:
        self.page = page
        self.expected = {
            key: expect(page.kind, key, page.histories[key]) for key in page.keys
        }
        self.differences = tuple(self._compare(now))

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the rows that differ."""
        return tuple(dict.fromkeys(difference.row for difference in self.differences))

    def _compare(self, now: int) -> Iterator[Difference]:
        page = self.page
        for key in page.keys:
            expected, stored = self.expected[key], page.stored.get(key)
            # SQLite has no booleans, but its integers compare equal to them.
            yield from compare(page.kind.table, key, stored, expected.row)
            if page.kind is TASKS:
                derived = page.derived.get(key, NOTHING)
                yield from compare_derived(key, derived, expected, now)


def _depth_changes(found: _Found) -> dict[str, int]:
    wrong = [d.row for d in found.differences if d.table == "tasks"]
    whole = [
        Difference(
            table="tasks",
            row=key,
            column="",
            stored=found.page.stored.get(key),
            expected=found.expected[key].row,
        )
        for key in dict.fromkeys(wrong)
    ]
    return corrections(whole)


def _pages(
    reader: StateReader, task_id: str | None, progress: Progress
) -> Iterator[_Found]:
    now = reader.store.now()
    if task_id is not None:
        yield _Found(reader.page(TASKS, task_id), now)
        return
    for kind in KINDS:
        total, done = reader.count(kind), 0
        for page in reader.pages(kind):
            yield _Found(page, now)
            done += len(page.keys)
            progress(kind.table, done, max(total, done))


def _check_counters(reader: StateReader, changes: dict[str, int]) -> list[Difference]:
    with reader.snapshot() as snapshot:
        counted, stored = recount(snapshot), stored_counters(snapshot)
    for name, delta in changes.items():
        counted[name] = counted.get(name, 0) + delta
    return list(compare_counters(stored, counted))


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
    goes by the times at which the database recorded the events.
    """
    tell = progress or silent
    with reading(url, system=system) as reader:
        last = reader.store.head().position
        if position is not None:
            last = min(last, position)
        if instant is not None:
            last = min(last, _position_at(reader, instant))
        if task_id is not None:
            yield from _states(reader, (task_id,), last)
            return
        for start in range(0, last, PAGE_POSITIONS):
            stop = min(last, start + PAGE_POSITIONS)
            with reader.snapshot() as snapshot:
                keys = snapshot.keys_begun(TASKS, start, stop)
            yield from _states(reader, keys, last)
            tell("events", stop, last)


def _states(reader: StateReader, keys: tuple[str, ...], up_to: int) -> Iterator[TaskState]:
    for start in range(0, len(keys), PAGE_KEYS):
        some = keys[start : start + PAGE_KEYS]
        with reader.snapshot() as snapshot:
            histories = snapshot.histories(TASKS, some, up_to)
        for key in some:
            task = expect(TASKS, key, histories[key]).task
            if task is not None:
                yield task


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
