"""Writes the log as JSON lines: whole, or its end as it grows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from orchd.maintenance.opening import reading
from orchd.maintenance.progress import Progress, silent
from orchd.system import System
from orchd_eventstore import EventStore, RecordedEvent, StoreUnavailable
from orchd_eventstore.instants import instant_text

PAGE_EVENTS = 1_000
WAIT_SECONDS = 1.0
"""Longest pause between two looks at a log that is followed."""

_encode = msgspec.json.Encoder().encode


class _Line(msgspec.Struct, frozen=True):
    position: int
    stream: str
    version: int
    type: str
    data: msgspec.Raw
    meta: msgspec.Raw
    recorded_at: str


def line_of(event: RecordedEvent) -> bytes:
    """Return an event as one line: the columns of `events`, data and meta as objects."""
    line = _Line(
        position=event.position,
        stream=event.stream,
        version=event.version,
        type=event.type,
        data=msgspec.Raw(event.data.encode()),
        meta=msgspec.Raw(event.meta.encode()),
        recorded_at=instant_text(event.recorded_at),
    )
    return _encode(line) + b"\n"


def export(
    url: str,
    *,
    system: System,
    after: int = 0,
    until: int | None = None,
    progress: Progress = silent,
) -> Iterator[bytes]:
    """Yield the events above position `after`, up to `until` or to the log's end.

    Raises:
        StateMissing: there is no state.
    """
    with reading(url, system=system) as reader:
        last = reader.store.head().position
        up_to = last if until is None else min(until, last)
        for page in _pages(reader.store, after, up_to):
            yield from map(line_of, page)
            progress("events", page[-1].position - after, up_to - after)


def _pages(store: EventStore, after: int, up_to: int) -> Iterator[list[RecordedEvent]]:
    while after < up_to:
        page = store.read_all(after=after, up_to=up_to, limit=PAGE_EVENTS)
        if not page:
            return
        yield page
        after = page[-1].position


def tail(
    url: str,
    *,
    system: System,
    after: int | None = None,
    count: int = 10,
    follow: bool = False,
    away: Callable[[str], None] = lambda why: None,
) -> Iterator[bytes]:
    """Yield the last `count` events, or those above `after`, and with `follow` go on.

    Args:
        away: told once, each time that the database does not answer while it is followed;
            it goes on where it was as soon as the database is back.

    Raises:
        StateMissing: there is no state.
    """
    with reading(url, system=system) as reader:
        reached = reader.store.head().position
        start = max(0, reached - count) if after is None else after
        for page in _pages(reader.store, start, reached):
            yield from map(line_of, page)
        if follow:
            for page in _news(reader.store, system, max(start, reached), away):
                yield from map(line_of, page)


def _news(
    store: EventStore, system: System, reached: int, away: Callable[[str], None]
) -> Iterator[list[RecordedEvent]]:
    is_away = False
    while True:
        # A hint that comes between the look and the wait ends the wait.
        seen = store.hints()
        try:
            page = store.read_all(after=reached, limit=PAGE_EVENTS)
            is_away = False
        except StoreUnavailable as error:
            if not is_away:
                away(str(error))
            is_away, page = True, []
        if page:
            yield page
            reached = page[-1].position
        elif is_away:
            system.block(WAIT_SECONDS)
        else:
            store.wait(WAIT_SECONDS, seen=seen)
