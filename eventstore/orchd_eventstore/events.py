"""The nouns of the store: what is handed in, what was stored, and what came of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from orchd_eventstore.canonical import canonical_json

ANY_VERSION = -1
"""Expected version of an append that does not care where its stream stands."""
NO_STREAM = 0
"""Expected version of an append that begins its stream."""


class Value(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The base of the store's immutable values."""


class NewEvent(msgspec.Struct, frozen=True, gc=False):
    """An event before it is stored; `data` and `meta` are canonical JSON text."""

    type: str
    data: str
    meta: str

    @classmethod
    def of(cls, type: str, data: Mapping[str, Any], meta: Mapping[str, Any]) -> NewEvent:
        """Return an event from mappings; raises what `canonical_json` raises."""
        return cls(type, canonical_json(data), canonical_json(meta))


class RecordedEvent(msgspec.Struct, frozen=True, gc=False):
    """An event as it was stored."""

    position: int
    """Place in the log: 1, 2, 3 …, dense and in commit order."""
    stream: str
    version: int
    """Place in the stream: 1, 2, 3 …"""
    type: str
    data: str
    meta: str
    recorded_at: int
    """The database's clock at the commit, in microseconds since the epoch, UTC."""


class Erasure(Value, frozen=True, kw_only=True):
    """The data of an event that were replaced; see `orchd_eventstore.erasing`."""

    position: int
    data_hash: str
    """SHA-256 of the data before."""
    data: str
    """What stands there now."""
    erased_by: int
    """Position of the event that says so."""


class Append(Value, frozen=True, kw_only=True):
    """One item of a batch: events for one stream, accepted or refused as a whole.

    With a projection, `row` is the projection's complete row after the events and the item
    is conditional on the row's version; without one, on the version of the stream.
    """

    stream: str
    expected_version: int
    events: Sequence[NewEvent]
    projection: str | None = None
    row: Mapping[str, Any] | None = None
    changed: frozenset[str] | None = None
    """The columns in which `row` differs from the row before; None: it is not known."""
    counters: Mapping[str, int] = {}
    """Counter name -> what to add to it if the item is accepted."""


class Blob(Value, frozen=True, kw_only=True):
    """A body that is stored once, under the hash of its content."""

    hash: str
    size: int
    body: bytes
    encoding: str = "identity"

    @classmethod
    def of(cls, body: bytes) -> Blob:
        """Return a body under its SHA-256."""
        return cls(hash=hashlib.sha256(body).hexdigest(), size=len(body), body=body)


class Appended(Value, frozen=True, kw_only=True):
    """An item was accepted; its events have these positions and versions, in order."""

    first_position: int
    last_position: int
    version: int
    """The stream's version after the item."""


class Conflict(Value, frozen=True, kw_only=True):
    """An item lost: its stream or row is not where it was expected, or a unique value of
    its row is taken."""


class Rejected(Value, frozen=True, kw_only=True):
    """The database would not store this item."""

    reason: str


Outcome: TypeAlias = Appended | Conflict | Rejected


class Commit(Value, frozen=True, kw_only=True):
    """What came of a batch; `outcomes` are in the order of its items.

    Positions and time are None when no item was accepted.
    """

    command_id: str
    first_position: int | None
    last_position: int | None
    recorded_at: int | None
    outcomes: tuple[Outcome, ...]
    repeated: bool = False
    """Whether the command was in the log already."""
    answer: Any = None
    """What the batch's producer answers, if it had one."""


class Produced(Value, frozen=True, kw_only=True):
    """What a producer adds to a batch; none of the items may lose."""

    items: Sequence[Append]
    answer: Any = None
    """For the caller, in `Commit.answer`."""


class Head(Value, frozen=True, kw_only=True):
    """The end of the log."""

    position: int
    hash: str
    recorded_at: int | None
