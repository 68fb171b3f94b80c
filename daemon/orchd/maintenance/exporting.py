"""Writes the log as JSON lines: whole, or its end as it grows."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from orchd.maintenance.opening import reading
from orchd.system import System
from orchd_eventstore import EventStore, RecordedEvent
from orchd_eventstore.schema import instant_text

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
    url: str, *, system: System, after: int = 0, until: int | None = None
) -> Iterator[bytes]:
    """Yield the events above position `after`, up to `until` or to the log's end.

    Raises:
        StateMissing: there is no state.
    """
    with reading(url, system=system) as reader:
        last = reader.store.head().position
        yield from _lines(reader.store, after, last if until is None else min(until, last))


def _lines(store: EventStore, after: int, up_to: int) -> Iterator[bytes]:
    while after < up_to:
        page = store.read_all(after=after, up_to=up_to, limit=PAGE_EVENTS)
        if not page:
            return
        yield from map(line_of, page)
        after = page[-1].position


def tail(
    url: str,
    *,
    system: System,
    after: int | None = None,
    count: int = 10,
    follow: bool = False,
) -> Iterator[bytes]:
    """Yield the last `count` events, or those above `after`, and with `follow` go on.

    Raises:
        StateMissing: there is no state.
    """
    with reading(url, system=system) as reader:
        store = reader.store
        reached = store.head().position
        start = max(0, reached - count) if after is None else after
        yield from _lines(store, start, reached)
        reached = max(start, reached)
        while follow:
            store.wait(WAIT_SECONDS)
            page = store.read_all(after=reached, limit=PAGE_EVENTS)
            yield from map(line_of, page)
            reached = page[-1].position if page else reached
