"""Brings events that older releases wrote into the form that this release reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from orchd_eventstore.canonical import canonical_json
from orchd_eventstore.errors import UnknownEvent
from orchd_eventstore.events import RecordedEvent

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]


class Upcasters:
    """Functions that turn the data of one schema version of a type into the next one's.

    An event's schema version is `meta.schema`; it rises by one with each function.
    """

    def __init__(self) -> None:
        self._functions: dict[tuple[str, int], Upcaster] = {}

    def register(self, event_type: str, schema: int, function: Upcaster) -> None:
        """Use `function` for events of this type that carry this schema version.

        Raises:
            ValueError: there is one already.
        """
        if (event_type, schema) in self._functions:
            raise ValueError(f"{event_type} of schema {schema} has an upcaster already")
        self._functions[event_type, schema] = function

    def apply(self, event: RecordedEvent) -> RecordedEvent:
        """Return the event in its newest form."""
        if not any(kind == event.type for kind, _ in self._functions):
            return event
        meta: dict[str, Any] = json.loads(event.meta)
        data: dict[str, Any] | None = None
        while function := self._functions.get((event.type, meta.get("schema", 1))):
            data = function(json.loads(event.data) if data is None else data)
            meta["schema"] = meta.get("schema", 1) + 1
        if data is None:
            return event
        return msgspec.structs.replace(
            event, data=canonical_json(data), meta=canonical_json(meta)
        )


def readable(
    events: Iterable[RecordedEvent],
    *,
    known_types: Collection[str] | Mapping[str, Any] | None = None,
    upcasters: Upcasters | None = None,
) -> Iterator[RecordedEvent]:
    """Yield events in their newest form.

    Raises:
        UnknownEvent: at the first event whose type is not among `known_types`.
    """
    for event in events:
        if known_types is not None and event.type not in known_types:
            raise UnknownEvent(event.position, event.type)
        yield event if upcasters is None else upcasters.apply(event)
