"""Compares streams with the rows that they add up to, stretch by stretch.

Nearly every row is what it should be. So a stretch is first screened: its tasks are folded
and compared as a whole. Whatever does not pass, and whatever is rare, is then looked at
closely, within the same snapshot of the database.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from operator import itemgetter
from typing import NamedTuple

from orchd.maintenance.derivation import (
    Clock,
    Derived,
    compare_derived,
    compare_listed,
)
from orchd.maintenance.difference import Difference, compare
from orchd.maintenance.folding import KINDS, TASKS, Event, Expected, Kind, expect
from orchd.maintenance.reading import Page, Snapshot, Span, StateReader
from orchd.maintenance.screening import screen

STRETCH_EVENTS = 2_000
"""Events that are folded and compared at once, if their bodies are not large."""
STRETCH_CHARACTERS = 4_000_000
"""How much text a stretch should hold at most."""
KEYS_MAX = 5_000
"""Rows that one search for strays looks at."""
CLOSE_KEYS = 200
"""Streams that are looked at closely at once."""

NOTHING = Derived()
_type, _data, _position = itemgetter(2), itemgetter(3), itemgetter(5)


class Found(NamedTuple):
    """Rows of one kind, or rows derived from them, that are not what the log says."""

    table: str
    """The table of the kind."""
    keys: tuple[str, ...]
    differences: tuple[Difference, ...]


class Look(NamedTuple):
    """What one look at the database saw."""

    events: int
    counts: Mapping[str, int]
    """Event type -> how many there were, up to the head that was given."""
    tasks: int
    """Rows of `tasks` that belong to a stream."""
    found: tuple[Found, ...]


def examine(reader: StateReader, span: Span, head: int) -> Iterator[Look]:
    """Compare all streams of a span with their rows.

    Args:
        head: a position; events above it are not counted, because they may not have been
            there yet when other spans were examined.

    Raises:
        UnreadableStream: a stream holds what cannot be folded.
    """
    after, events_max, is_last = span.after, STRETCH_EVENTS, False
    while not is_last:
        rest = Span(after, span.up_to)
        look, events, is_last = reader.patiently(
            partial(_examine_stretch, reader, rest, events_max, head)
        )
        yield look
        if events:
            after = events[-1][0]
            events_max = _fitting(events_max, events)


def _examine_stretch(
    reader: StateReader, span: Span, events_max: int, head: int
) -> tuple[Look, list[Event], bool]:
    with _no_collection(), reader.snapshot() as snapshot:
        events, is_last = snapshot.stretch(span, events_max)
        screening = screen(snapshot, events)
        found = [
            one
            for kind, keys in screening.suspects.items()
            for one in look_closely(snapshot, kind, keys, reader.store.now)
        ]
    look = Look(len(events), _counts(events, head), screening.tasks, tuple(found))
    return look, events, is_last


@contextmanager
def _no_collection() -> Iterator[None]:
    # Nothing here makes cycles, and looking for them costs a tenth of the time.
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _counts(events: Sequence[Event], head: int) -> Counter[str]:
    counts = Counter(map(_type, events))
    if max(map(_position, events), default=0) > head:
        counts.subtract(event[2] for event in events if event[5] > head)
    return counts


def _fitting(events_max: int, events: Sequence[Event]) -> int:
    """Return how many events the next stretch may have, going by the text of this one."""
    characters = sum(map(len, map(_data, events)))
    if characters > STRETCH_CHARACTERS:
        return max(1, events_max // 2)
    if characters < STRETCH_CHARACTERS // 4:
        return min(STRETCH_EVENTS, events_max * 2)
    return events_max


def find_strays(reader: StateReader, tasks_seen: int | None) -> Iterator[Found]:
    """Find rows that belong to no stream, and derived rows that belong to no task.

    Args:
        tasks_seen: how many rows of `tasks` were seen with their streams, if that is known
            of all streams. Where there are no more rows, none has no stream.
    """
    for kind in KINDS:
        if kind is not TASKS or tasks_seen != reader.patiently(
            partial(_count_tasks, reader)
        ):
            yield from _rows_without_stream(reader, kind)
    yield from reader.patiently(partial(_stray_derived, reader))


def _count_tasks(reader: StateReader) -> int:
    with reader.snapshot(patient=True) as snapshot:
        return int(snapshot.all("SELECT count(*) FROM tasks")[0][0])


def _rows_without_stream(reader: StateReader, kind: Kind) -> Iterator[Found]:
    after = ""
    while True:
        found, keys = reader.patiently(partial(_strays_after, reader, kind, after))
        if not keys:
            return
        yield from found
        after = keys[-1]


def _strays_after(
    reader: StateReader, kind: Kind, after: str
) -> tuple[list[Found], tuple[str, ...]]:
    with reader.snapshot() as snapshot:
        keys = snapshot.keys_after(kind, after, KEYS_MAX)
        strays = snapshot.keys_without_stream(kind, after, keys[-1]) if keys else ()
        return list(look_closely(snapshot, kind, strays, reader.store.now)), keys


def _stray_derived(reader: StateReader) -> list[Found]:
    with reader.snapshot(patient=True) as snapshot:
        keys = snapshot.stray_keys()
        found = look_closely(snapshot, TASKS, keys, reader.store.now)
        return [one for each in found for one in _derived_only(each)]


def _derived_only(found: Found) -> Iterator[Found]:
    """Leave out tasks whose own rows are wrong: they were found with their streams."""
    wrong = {one.row for one in found.differences if one.table == TASKS.table}
    differences = tuple(one for one in found.differences if one.row not in wrong)
    keys = tuple(key for key in found.keys if key not in wrong)
    if keys:
        yield Found(found.table, keys, differences)


# --- the close look -------------------------------------------------------------------


def look_closely(
    snapshot: Snapshot, kind: Kind, keys: Sequence[str], clock: Clock
) -> Iterator[Found]:
    """Compare rows with their streams, column by column."""
    for start in range(0, len(keys), CLOSE_KEYS):
        found = compare_page(snapshot.page(kind, keys[start : start + CLOSE_KEYS]), clock)
        if found is not None:
            yield found


def compare_page(page: Page, clock: Clock) -> Found | None:
    """Return where the rows of a page differ from their streams; None where nowhere."""
    differences = tuple(
        difference
        for key in page.keys
        for difference in _compare_row(
            page, key, expect(page.kind, key, page.histories[key]), clock
        )
    )
    keys = tuple(dict.fromkeys(difference.row for difference in differences))
    return Found(page.kind.table, keys, differences) if differences else None


def _compare_row(
    page: Page, key: str, expected: Expected, clock: Clock
) -> Iterator[Difference]:
    wrong = list(compare(page.kind.table, key, page.stored.get(key), expected.row))
    yield from wrong
    if page.kind is TASKS:
        derived = page.derived.get(key, NOTHING)
        yield from compare_derived(key, derived, expected, clock)
        if not wrong:
            # With a wrong status the lists are what they should be for that.
            yield from compare_listed(key, derived, expected)
