"""Counts again what table `counters` keeps: tasks by queue and status, events by type.

An append changes the counters together with what they count. So the error of a counter,
what it should be less what it is, stays the same while daemons go on; it is read in one
snapshot and can be added at any later time, once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from orchd.ledger.claims import DEPTH_COUNTER
from orchd.maintenance.difference import Difference, Row
from orchd.maintenance.folding import TASKS, expect
from orchd.maintenance.progress import Progress, silent
from orchd.maintenance.reading import Page, Snapshot, StateReader

EVENT_COUNTER = "events/{type}"
MENDINGS_COUNTER = "maintenance/mendings"
"""How often counters were mended; who mends them makes sure that nobody else has since."""
COUNTED_POSITIONS = 500_000
"""Events that are counted in one go."""
CORRECTED_KEYS = 200

_DEPTHS = "SELECT queue, status, count(*) FROM tasks GROUP BY queue, status"
_EVENTS = (
    "SELECT type, count(*) FROM events WHERE position > ? AND position <= ? GROUP BY type"
)
_LATE_EVENTS = "SELECT type, count(*) FROM events WHERE position > ? GROUP BY type"
_STORED = "SELECT name, value FROM counters"


class CounterErrors(msgspec.Struct, frozen=True):
    """The counters that are wrong, and which state of the table they were read from."""

    differences: tuple[Difference, ...]
    mendings: int


class EventCounts(NamedTuple):
    """How many events of each type there are up to a position."""

    counts: Mapping[str, int]
    up_to: int


def find_counter_errors(
    reader: StateReader,
    counted: EventCounts | None = None,
    *,
    wrong: Iterable[str] = (),
    progress: Progress = silent,
) -> CounterErrors:
    """Compare every counter with what it counts.

    Args:
        counted: what is counted already.
        wrong: tasks whose rows are known to be wrong. They are counted as they should be,
            so that what is wrong with a row is not said of its counter again.
    """
    early, reached = counted or _count_events(reader, progress)
    events = Counter(early)
    with reader.snapshot(patient=True) as snapshot:
        events.update(dict(snapshot.all(_LATE_EVENTS, (reached,))))
        depths = Counter(
            {
                DEPTH_COUNTER.format(queue=queue, status=status): count
                for queue, status, count in snapshot.all(_DEPTHS)
            }
        )
        depths.update(_corrections(snapshot, sorted(wrong)))
        stored = dict(snapshot.all(_STORED))
    mendings = stored.pop(MENDINGS_COUNTER, 0)
    types = {EVENT_COUNTER.format(type=name): number for name, number in events.items()}
    return CounterErrors(tuple(_compare(stored, types | depths)), mendings)


def _count_events(reader: StateReader, progress: Progress) -> EventCounts:
    # Events never change, so all but the latest can be counted in short steps.
    counts: Counter[str] = Counter()
    head = reader.store.head().position
    for start in range(0, head, COUNTED_POSITIONS):
        stop = min(head, start + COUNTED_POSITIONS)
        with reader.snapshot(patient=True) as snapshot:
            counts.update(dict(snapshot.all(_EVENTS, (start, stop))))
        progress("counting", stop, head)
    return EventCounts(counts, head)


def _corrections(snapshot: Snapshot, wrong: Sequence[str]) -> Counter[str]:
    """Return what wrong rows of `tasks` add to or take from the counts of their queues."""
    changes: Counter[str] = Counter()
    for start in range(0, len(wrong), CORRECTED_KEYS):
        page = snapshot.page(TASKS, wrong[start : start + CORRECTED_KEYS])
        for row, delta in _moves(page):
            name = DEPTH_COUNTER.format(queue=row["queue"], status=row["status"])
            changes[name] += delta
    return changes


def _moves(page: Page) -> Iterator[tuple[Row, int]]:
    for key in page.keys:
        expected = expect(TASKS, key, page.histories[key]).row
        for row, delta in ((page.stored.get(key), -1), (expected, 1)):
            if row is not None:
                yield row, delta


def _compare(stored: Mapping[str, int], counted: Mapping[str, int]) -> Iterator[Difference]:
    # A missing counter stands for zero.
    for name in sorted(stored.keys() | counted.keys()):
        value, expected = stored.get(name, 0), counted.get(name, 0)
        if value != expected:
            yield Difference(
                table="counters",
                row=name,
                column="value",
                stored=value,
                expected=expected,
            )
