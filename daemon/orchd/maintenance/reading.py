"""Streams and rows as they were at one moment, read beside whoever writes them.

Everything that is compared is read within one snapshot of the database, so that rows which
move meanwhile are compared with exactly the events that they stand for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

from orchd.ledger.derived import ASIDE, RUNNING
from orchd.ledger.dialects import POSTGRESQL, SQLITE, Dialect
from orchd.ledger.rows import columns
from orchd.maintenance.derivation import (
    ASIDE_COLUMNS,
    READY_COLUMNS,
    RUNNING_COLUMNS,
    TIMER_COLUMNS,
    Derived,
)
from orchd.maintenance.folding import TASKS, Event, Kind, StoredEvent
from orchd.system import System
from orchd_eventstore import EventStore, StoreUnavailable, Transaction

SAMPLES_PER_SPAN = 16
RETRY_SECONDS = (0.1, 0.5, 2.0, 5.0)
"""Pauses before a page is read again from a database that did not answer."""

Row = dict[str, Any]
Result = TypeVar("Result")


class Span(NamedTuple):
    """The streams above `after`, up to and including `up_to`, in the database's order."""

    after: str
    up_to: str | None
    """None: however many there are."""


class Stretch(NamedTuple):
    """The whole streams that follow each other at the beginning of a span."""

    events: list[Event]
    is_last: bool
    """Whether the span ends with them."""


class Page(NamedTuple):
    """Some rows of one kind, their streams, and for tasks the derived rows."""

    kind: Kind
    keys: tuple[str, ...]
    stored: dict[str, Row]
    histories: dict[str, list[StoredEvent]]
    derived: dict[str, Derived]


class StateReader:
    """Reads a state beside whoever writes it."""

    def __init__(self, store: EventStore, system: System, *, postgresql: bool) -> None:
        self.store = store
        self.dialect: Dialect = POSTGRESQL if postgresql else SQLITE
        self._system = system

    @contextmanager
    def snapshot(self, *, patient: bool = False) -> Iterator[Snapshot]:
        """Lend a view of the database at one moment; keep it short.

        With `patient` the database may take as long as it needs for a statement.
        """
        begin = "BEGIN"
        if self.dialect.is_postgresql:
            begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        with self.store.connect_reader() as connection:
            snapshot = Snapshot(connection, self.dialect)
            snapshot.run(begin)
            try:
                if patient and self.dialect.is_postgresql:
                    snapshot.run("SET LOCAL statement_timeout = 0")
                yield snapshot
            finally:
                snapshot.end()

    def patiently(self, read: Callable[[], Result]) -> Result:
        """Read, and again after a pause when the database does not answer.

        Raises:
            StoreUnavailable: it still does not.
        """
        for pause_seconds in RETRY_SECONDS:
            try:
                return read()
            except StoreUnavailable:
                self._system.block(pause_seconds)
        return read()

    def spans(self, count: int) -> list[Span]:
        """Split all streams into about `count` spans with about as many events each."""
        head = self.store.head().position
        step = max(1, head // (count * SAMPLES_PER_SPAN))
        with self.snapshot() as snapshot:
            streams = snapshot.sampled_streams(step, head)
        bounds = [
            streams[len(streams) * number // count]
            for number in range(1, min(count, len(streams)))
        ]
        return spans_between(bounds)

    def get_ready(self) -> None:
        """Open a connection for what is read next, if the database answers at once."""
        with suppress(StoreUnavailable), self.store.connect_reader():
            pass

    def let_go(self) -> None:
        """Give up all connections; whatever is read next opens one again."""
        self.store.close()

    def page(self, kind: Kind, keys: Sequence[str]) -> Page:
        """Return the page of some rows."""
        with self.snapshot() as snapshot:
            return snapshot.page(kind, keys)


def spans_between(bounds: Sequence[str]) -> list[Span]:
    """Return the spans that end at `bounds`, and the one that follows the last."""
    return [
        Span(after, up_to)
        for after, up_to in zip(("", *bounds), (*bounds, None), strict=True)
    ]


class Snapshot:
    """A view of the database at one moment."""

    def __init__(self, connection: Any, dialect: Dialect) -> None:
        self._connection = connection
        self.dialect = dialect

    def run(self, statement: str) -> None:
        """Execute a statement that has no rows."""
        self._connection.execute(statement)

    def end(self) -> None:
        """Let go of the view; a connection that broke has done so already."""
        if not getattr(self._connection, "closed", False):
            self.run("ROLLBACK")

    def all(self, text: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run a statement written as `orchd.ledger.dialects` says."""
        statement = self.dialect.sql(text)
        rows: list[Any] = self._connection.execute(statement, tuple(parameters)).fetchall()
        return rows

    # --- whole streams ----------------------------------------------------------------

    def sampled_streams(self, step: int, head: int) -> list[str]:
        """Return the streams of every `step`th event, in order."""
        text = (
            "WITH RECURSIVE sample(place) AS (SELECT CAST(? AS BIGINT) UNION ALL"
            " SELECT place + ? FROM sample WHERE place + ? <= ?)"
            " SELECT DISTINCT e.stream FROM sample CROSS JOIN events AS e"
            " WHERE e.position = place ORDER BY e.stream"
        )
        return [row[0] for row in self.all(text, (step, step, step, head))]

    def stretch(self, span: Span, events_max: int) -> Stretch:
        """Return the span's first whole streams with at most `events_max` events.

        A stream that is longer comes alone.
        """
        bound, limits = ("", ()) if span.up_to is None else (" AND stream <= ?", span[1:])
        text = (
            "SELECT stream, version, type, data, meta, position FROM events"
            f" WHERE stream > ?{bound} ORDER BY stream, version LIMIT {events_max + 1:d}"
        )
        events = self.all(text, (span.after, *limits))
        if len(events) <= events_max:
            return Stretch(events, is_last=True)
        cut = events[-1][0]
        while events and events[-1][0] == cut:
            events.pop()
        if not events:
            return self.stretch(span, events_max * 4)
        return Stretch(events, is_last=False)

    # --- rows -------------------------------------------------------------------------

    def keys_begun(self, kind: Kind, after: int, up_to: int) -> tuple[str, ...]:
        """Return keys of streams that begin within a range of positions, in order."""
        start = len(kind.prefix) + 1
        text = (
            f"SELECT substr(stream, {start}) FROM events"
            " WHERE position > ? AND position <= ? AND version = 1"
            f" AND substr(stream, 1, {start - 1}) = '{kind.prefix}' ORDER BY position"
        )
        return tuple(row[0] for row in self.all(text, (after, up_to)))

    def keys_after(self, kind: Kind, after: str, limit: int) -> tuple[str, ...]:
        """Return the next keys of a table."""
        text = (
            f"SELECT {kind.key} FROM {kind.table} WHERE {kind.key} > ?"
            f" ORDER BY {kind.key} LIMIT {limit:d}"
        )
        return tuple(row[0] for row in self.all(text, (after,)))

    def keys_without_stream(self, kind: Kind, after: str, up_to: str) -> tuple[str, ...]:
        """Return the keys of a range whose rows have no stream."""
        # As a scalar it is looked up row by row; a join would read the whole log.
        stream = f"('{kind.prefix}' || t.{kind.key})"
        if self.dialect.is_postgresql:
            # Keys are compared byte by byte, streams are not; only so their index serves.
            stream += ' COLLATE "default"'
        first = f"SELECT e.version FROM events AS e WHERE e.stream = {stream} LIMIT 1"
        text = (
            f"SELECT t.{kind.key} FROM {kind.table} AS t"
            f" WHERE t.{kind.key} > ? AND t.{kind.key} <= ? AND ({first}) IS NULL"
        )
        return tuple(row[0] for row in self.all(text, (after, up_to)))

    def stray_keys(self) -> tuple[str, ...]:
        """Return what derived tables name although no task is in that state."""
        pending = "t.status = 'pending'"
        holds = {
            "ready": pending,
            "timers": pending,
            "running": f"{RUNNING.format(row='t.')} AND t.worker = d.worker",
            "aside": f"({ASIDE.format(row='t.')}) AND t.status = d.status",
        }
        parts = (
            f"SELECT task_id FROM {table} AS d WHERE NOT EXISTS"
            f" (SELECT 1 FROM tasks AS t WHERE t.id = d.task_id AND {condition})"
            for table, condition in holds.items()
        )
        return tuple(row[0] for row in self.all(" UNION ".join(parts)))

    def rows(
        self, table: str, key: str, names: Sequence[str], keys: Sequence[str]
    ) -> list[tuple[Any, ...]]:
        """Return some columns of the rows with these keys, in any order."""
        text = f"SELECT {columns(names)} FROM {table} WHERE {key} = ANY(?)"
        return self.all(text, (self.dialect.array(keys),)) if keys else []

    def rows_about(
        self, table: str, key: str, names: Sequence[str], keys: Sequence[str]
    ) -> list[tuple[Any, ...]]:
        """Return what `rows` does, and perhaps some rows more.

        A range is read much faster than single keys. Keys that follow each other in the
        order of streams nearly always do so in the order of rows.
        """
        if not keys:
            return []
        rows_max = 2 * len(keys)
        text = (
            f"SELECT {columns(names)} FROM {table} WHERE {key} >= ? AND {key} <= ?"
            f" ORDER BY {key} LIMIT ?"
        )
        found = self.all(text, (min(keys), max(keys), rows_max))
        if len(found) < rows_max:
            return found
        return self.rows(table, key, names, keys)

    def page(self, kind: Kind, keys: Sequence[str]) -> Page:
        """Return the rows and the streams of these keys."""
        derived = self._derived(keys) if kind is TASKS else {}
        stored = self._by_key(kind.table, kind.key, kind.columns, keys)
        return Page(kind, tuple(keys), stored, self.histories(kind, keys), derived)

    def histories(
        self, kind: Kind, keys: Sequence[str], up_to: int | None = None
    ) -> dict[str, list[StoredEvent]]:
        """Return the events of streams, in order, by the key of their row."""
        bound = "" if up_to is None else f" AND position <= {up_to:d}"
        text = (
            "SELECT stream, version, type, data, meta FROM events"
            f" WHERE stream = ANY(?){bound} ORDER BY stream, version"
        )
        streams = self.dialect.array([kind.prefix + key for key in keys])
        found: dict[str, list[StoredEvent]] = {key: [] for key in keys}
        for row in self.all(text, (streams,)):
            event = StoredEvent(*row)
            found[event.stream.removeprefix(kind.prefix)].append(event)
        return found

    def _derived(self, keys: Sequence[str]) -> dict[str, Derived]:
        ready = self._by_key("ready", "task_id", READY_COLUMNS, keys)
        timers = self._by_key("timers", "task_id", TIMER_COLUMNS, keys)
        aside = self._by_key("aside", "task_id", ASIDE_COLUMNS, keys)
        running = self._by_key("running", "task_id", RUNNING_COLUMNS, keys)
        return {
            key: Derived(ready.get(key), timers.get(key), running.get(key), aside.get(key))
            for key in keys
        }

    def _by_key(
        self, table: str, key: str, names: Sequence[str], keys: Sequence[str]
    ) -> dict[str, Row]:
        found = (
            dict(zip(names, row, strict=True)) for row in self.rows(table, key, names, keys)
        )
        return {row[key]: row for row in found}


class TransactionView(Snapshot):
    """Reads within a write transaction."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self.dialect = SQLITE if transaction.placeholder == "?" else POSTGRESQL

    def all(self, text: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run a statement written as `orchd.ledger.dialects` says."""
        return self._transaction.execute(self.dialect.sql(text), parameters)
