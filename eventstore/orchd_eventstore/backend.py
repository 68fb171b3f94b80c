"""What the store needs of a database, and what both databases share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from orchd_eventstore.errors import InvalidAppend
from orchd_eventstore.events import (
    ANY_VERSION,
    Append,
    Appended,
    Blob,
    Commit,
    Conflict,
    Produced,
)
from orchd_eventstore.news import News
from orchd_eventstore.projection import Projection

Projections = Mapping[str, Projection]


Execute = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]
"""Runs a statement in the driver's own parameter style and returns its rows."""


class Producer(Protocol):
    """Adds items to a batch within its transaction, once the batch's own are stored.

    What it reads can be locked without anybody waiting for a client: on PostgreSQL a
    function in the database does the work, on SQLite there is only one writer.
    """

    def wish(self) -> str:
        """PostgreSQL: return the JSON text that the database's producer gets.

        The producer is a function `(wish json, changes json)` that returns one row:
        `events` (objects with item, stream, version, type, data and meta), `counters`
        (objects with name, delta and items) and `answer`, each of them JSON or null. Its
        `changes` are what the accepted items of the batch add to each counter.
        """
        ...

    def produce(self, execute: Execute, changes: Mapping[str, int]) -> Produced:
        """SQLite: return the items to add; `changes` as above."""
        ...


class BackendSession(Protocol):
    """Reads, then one append."""

    def execute_all(
        self, statements: Sequence[tuple[str, Sequence[Any]]]
    ) -> list[list[tuple[Any, ...]]]:
        """Run several statements, in one round trip where the driver can."""
        ...

    def append(
        self,
        items: Sequence[Append],
        command_id: str,
        blobs: Sequence[Blob],
        producer: Producer | None,
    ) -> Commit:
        """Append and commit; raises what `EventStore.append` raises."""
        ...


class BackendTransaction(Protocol):
    """A transaction that changes what the log does not say."""

    def execute(
        self, statement: str, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Run a statement in the driver's own parameter style and return its rows."""
        ...

    def execute_all(
        self, statements: Sequence[tuple[str, Sequence[Any]]]
    ) -> list[list[tuple[Any, ...]]]:
        """Run several statements in one round trip where the driver can."""
        ...

    def commit(self) -> None:
        """Commit what has been done."""
        ...


class Backend(Protocol):
    """One database."""

    placeholder: str
    """How the driver marks a parameter: `?` or `%s`."""
    appends_max: int
    """How many appends may be under way at once; further ones wait."""
    on_sent: Callable[[], None]
    """Called by the thread that appends when all of a batch is on its way to a server."""

    def session(self) -> AbstractContextManager[BackendSession]:
        """Begin to read for one append."""
        ...

    def transaction(self) -> AbstractContextManager[BackendTransaction]:
        """Begin a transaction; it is rolled back unless it was committed."""
        ...

    def append(
        self,
        items: Sequence[Append],
        command_id: str,
        blobs: Sequence[Blob],
        producer: Producer | None,
    ) -> Commit:
        """Append without reading anything before."""
        ...

    def scrubbing(self) -> AbstractContextManager[None]:
        """See `EventStore.scrubbing`."""
        ...

    def reader(self) -> AbstractContextManager[Any]:
        """Lend a connection of the driver's that only reads."""
        ...

    def now(self) -> int:
        """Return the database's clock in microseconds."""
        ...

    @property
    def news(self) -> News:
        """Hints that this process or another one may have committed."""
        ...

    def close(self) -> None:
        """Give up all connections; idempotent."""
        ...


def require_valid(items: Sequence[Append], projections: Projections) -> None:
    """Raise `InvalidAppend` when a batch breaks the contract."""
    seen: set[str] = set()
    for item in items:
        if item.stream in seen:
            raise InvalidAppend(f"stream {item.stream!r} occurs twice in one batch")
        seen.add(item.stream)
        _require_valid_item(item, projections)


def _require_valid_item(item: Append, projections: Projections) -> None:
    if not item.events:
        raise InvalidAppend(f"the item for stream {item.stream!r} has no events")
    if item.expected_version < ANY_VERSION:
        raise InvalidAppend(f"expected version {item.expected_version} makes no sense")
    if item.projection is None:
        return
    if item.projection not in projections:
        raise InvalidAppend(f"the store has no projection {item.projection!r}")
    if item.row is None or item.expected_version == ANY_VERSION:
        raise InvalidAppend(f"stream {item.stream!r} needs its row and an exact version")
    if item.row.get("version") != item.expected_version + len(item.events):
        raise InvalidAppend(f"the row of stream {item.stream!r} has another version")


COMMIT_RANGE = (
    "SELECT last_position - events, last_position, {at}"
    " FROM commits WHERE command_id = {mark}"
)
COMMIT_EVENTS = (
    "SELECT position, stream, version FROM events"
    " WHERE position > {mark} AND position <= {mark} ORDER BY position"
)


def resolved(
    items: Sequence[Append],
    command_id: str,
    recorded_at: int,
    rows: Sequence[tuple[int, str, int]],
) -> Commit:
    """Return what a command that is in the log already came to, from its events.

    Args:
        rows: position, stream and version of the commit's events.
    """
    spans: dict[str, tuple[int, int, int]] = {}
    for position, stream, version in rows:
        first = spans.get(stream, (position, 0, 0))[0]
        spans[stream] = (first, position, version)
    return Commit(
        command_id=command_id,
        first_position=rows[0][0],
        last_position=rows[-1][0],
        recorded_at=recorded_at,
        outcomes=tuple(_outcome(spans.get(item.stream)) for item in items),
        repeated=True,
    )


def _outcome(span: tuple[int, int, int] | None) -> Appended | Conflict:
    if span is None:
        return Conflict()
    first, last, version = span
    return Appended(first_position=first, last_position=last, version=version)


def joined(command_id: str, parts: Sequence[Commit]) -> Commit:
    """Return what a batch that was split into parts came to."""
    firsts = [part.first_position for part in parts if part.first_position is not None]
    lasts = [part.last_position for part in parts if part.last_position is not None]
    times = [part.recorded_at for part in parts if part.recorded_at is not None]
    return Commit(
        command_id=command_id,
        first_position=min(firsts, default=None),
        last_position=max(lasts, default=None),
        recorded_at=max(times, default=None),
        outcomes=tuple(outcome for part in parts for outcome in part.outcomes),
        repeated=any(part.repeated for part in parts),
        answer=next((part.answer for part in parts if part.answer is not None), None),
    )


def halves(items: Sequence[Append]) -> Iterator[tuple[str, Sequence[Append]]]:
    """Split a batch in two; yields (suffix of the command id, items)."""
    middle = len(items) // 2
    yield "/a", items[:middle]
    yield "/b", items[middle:]


PRODUCED = "/p"
"""Suffix of the command id under which a split batch asks its producer."""


def changes_of(items: Iterable[Append]) -> dict[str, int]:
    """Return what items add to each counter."""
    totals: dict[str, int] = {}
    for item in items:
        for name, delta in item.counters.items():
            totals[name] = totals.get(name, 0) + delta
    return totals
