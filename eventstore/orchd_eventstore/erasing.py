"""Data that was erased: what stands in its place, and why the chain still holds.

The chain covers the hash of an event's data (rules 2, see `orchd_eventstore.chain`). So the
data can be replaced as long as its hash is kept, in table `erasures`. That table proves
nothing by itself: an event later in the log, which the chain covers like any other, must
say in its own data, under the key `$erased`, what was replaced by what:

    {"$erased": [[position, hash of the data before, hash of the data now], …]}

Triggers let nobody change an event's data but to what `erasures` holds for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from orchd_eventstore.chain import data_hash
from orchd_eventstore.events import Erasure, RecordedEvent

ERASED_KEY = "$erased"
Listing = tuple[int, str, str]
"""Position, hash of the data before, hash of the data now."""


class _Announcement(msgspec.Struct):
    """What an event says was erased."""

    erased: list[Listing] = msgspec.field(name=ERASED_KEY, default_factory=list)


_decode = msgspec.json.Decoder(_Announcement).decode


def listing(erasures: Iterable[tuple[int, str, str]]) -> list[Listing]:
    """Return what an event's data has to hold under `ERASED_KEY`.

    Args:
        erasures: positions with the data before and the data now.
    """
    return [
        (position, data_hash(before), data_hash(now)) for position, before, now in erasures
    ]


def announced(data: str) -> list[Listing]:
    """Return what an event says was erased; nothing for any other event."""
    try:
        return _decode(data).erased
    except msgspec.MsgspecError:
        return []


class ErasedHashes:
    """Tells the hash of the data that an event was written with.

    Args:
        read_erasures: given (after, up to), returns what was erased in between.
        read_event: returns the event at a position.
        head: the end of the log; what lies above it proves nothing.
    """

    def __init__(
        self,
        read_erasures: Callable[[int, int], Iterable[Erasure]],
        read_event: Callable[[int], RecordedEvent | None],
        head: int,
    ) -> None:
        self._read_erasures = read_erasures
        self._read_event = read_event
        self._head = head
        self._erasures: dict[int, Erasure] = {}
        self._announcement: tuple[int, list[Listing]] = (0, [])

    def load(self, after: int, up_to: int, *, done: int) -> None:
        """Be ready to be asked about a range of positions; forget those up to `done`."""
        left = {place: one for place, one in self._erasures.items() if place > done}
        found = {one.position: one for one in self._read_erasures(after, up_to)}
        self._erasures = left | found

    def of(self, events: Sequence[RecordedEvent]) -> dict[int, str]:
        """Return position -> hash for those of the events that were erased.

        Raises:
            ValueError: an event's data was replaced, but no event says so.
        """
        if not self._erasures:
            return {}
        return {
            event.position: self._checked(event, self._erasures[event.position])
            for event in events
            if event.position in self._erasures
        }

    def _checked(self, event: RecordedEvent, erasure: Erasure) -> str:
        now = data_hash(event.data)
        if now == erasure.data_hash:
            # It is going to be erased, or somebody only claims so.
            return now
        if (event.position, erasure.data_hash, now) not in self._announced(event, erasure):
            raise ValueError(
                f"the data at position {event.position} was replaced, "
                "and no later event of the log says so"
            )
        return erasure.data_hash

    def _announced(self, event: RecordedEvent, erasure: Erasure) -> list[Listing]:
        place = erasure.erased_by
        if not event.position < place <= self._head:
            return []
        if self._announcement[0] != place:
            found = self._read_event(place)
            self._announcement = (place, [] if found is None else announced(found.data))
        return self._announcement[1]


INSERT = "INSERT INTO erasures (position, data_hash, data, erased_by) VALUES (?, ?, ?, ?)"
REPLACE = "UPDATE events SET data = ? WHERE position = ?"


def statements(
    erasures: Iterable[Erasure], placeholder: str
) -> list[tuple[str, Sequence[Any]]]:
    """Return what replaces the data of events, in one transaction."""
    found: list[tuple[str, Sequence[Any]]] = []
    for one in erasures:
        row = (one.position, one.data_hash, one.data, one.erased_by)
        found.append((INSERT.replace("?", placeholder), row))
        found.append((REPLACE.replace("?", placeholder), (one.data, one.position)))
    return found
