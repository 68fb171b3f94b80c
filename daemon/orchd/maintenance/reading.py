"""Pages of rows with the streams that they come from, each page at one moment.

A page is read within one snapshot of the database, so that rows which move meanwhile are
compared with exactly the events that they stand for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import sqlalchemy as sa

from orchd.ledger.dialects import POSTGRESQL, SQLITE, Dialect
from orchd.ledger.rows import columns
from orchd.maintenance.derivation import READY_COLUMNS, TIMER_COLUMNS, Derived
from orchd.maintenance.folding import TASKS, Kind, StoredEvent
from orchd_eventstore import EventStore

PAGE_ROWS = 200
PAGE_POSITIONS = 50_000
"""Positions of the log that one search for streams without a row looks at."""

Row = dict[str, Any]


class Page(NamedTuple):
    """Some rows of one kind, their streams, and for tasks the derived rows."""

    kind: Kind
    keys: tuple[str, ...]
    stored: dict[str, Row]
    histories: dict[str, list[StoredEvent]]
    derived: dict[str, Derived]


class StateReader:
    """Reads a state beside whoever writes it."""

    def __init__(self, store: EventStore, *, postgresql: bool) -> None:
        self.store = store
        self.dialect: Dialect = POSTGRESQL if postgresql else SQLITE

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Lend a view of the database at one moment; keep it short."""
        begin = "BEGIN"
        if self.dialect.is_postgresql:
            begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        with self.store.connect_reader() as connection:
            connection.exec_driver_sql(begin)
            try:
                yield Snapshot(connection, self.dialect)
            finally:
                connection.exec_driver_sql("ROLLBACK")

    def pages(self, kind: Kind) -> Iterator[Page]:
        """Yield all rows of a kind, then the keys of streams that have no row."""
        yield from self._pages_of_rows(kind)
        yield from self._pages_without_row(kind)
        if kind is TASKS:
            yield from self._pages_of_strays()

    def _pages_of_rows(self, kind: Kind) -> Iterator[Page]:
        after: str | None = None
        while True:
            with self.snapshot() as snapshot:
                keys = snapshot.keys_after(kind, after)
                page = snapshot.page(kind, keys)
            if not keys:
                return
            yield page
            after = keys[-1]

    def _pages_without_row(self, kind: Kind) -> Iterator[Page]:
        last = self.store.head().position
        for start in range(0, last, PAGE_POSITIONS):
            with self.snapshot() as snapshot:
                keys = snapshot.keys_without_row(kind, start, start + PAGE_POSITIONS)
                page = snapshot.page(kind, keys)
            if keys:
                yield page

    def _pages_of_strays(self) -> Iterator[Page]:
        # Derived rows whose task does not exist were on no page so far.
        with self.snapshot() as snapshot:
            keys = snapshot.stray_keys()
            page = snapshot.page(TASKS, keys)
        if keys:
            yield page

    def page(self, kind: Kind, key: str) -> Page:
        """Return the page of one row."""
        with self.snapshot() as snapshot:
            return snapshot.page(kind, (key,))

    def count(self, kind: Kind) -> int:
        """Return how many rows of a kind there are."""
        with self.snapshot() as snapshot:
            return int(snapshot.all(f"SELECT count(*) FROM {kind.table}")[0][0])


class Snapshot:
    """A view of the database at one moment."""

    def __init__(self, connection: sa.Connection, dialect: Dialect) -> None:
        self._connection = connection
        self.dialect = dialect

    def all(self, text: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run a statement written as `orchd.ledger.dialects` says."""
        statement = self.dialect.sql(text)
        return list(self._connection.exec_driver_sql(statement, tuple(parameters)))

    def keys_after(self, kind: Kind, after: str | None) -> tuple[str, ...]:
        """Return the next keys of a table."""
        condition, parameters = ("", ()) if after is None else (" WHERE {} > ?", (after,))
        text = (
            f"SELECT {kind.key} FROM {kind.table}{condition.format(kind.key)}"
            f" ORDER BY {kind.key} LIMIT {PAGE_ROWS}"
        )
        return tuple(row[0] for row in self.all(text, parameters))

    def keys_begun(self, kind: Kind, after: int, up_to: int) -> tuple[str, ...]:
        """Return keys of streams that begin within a range of positions, in order."""
        start = len(kind.prefix) + 1
        text = (
            f"SELECT substr(stream, {start}) FROM events"
            " WHERE position > ? AND position <= ? AND version = 1"
            f" AND substr(stream, 1, {start - 1}) = '{kind.prefix}' ORDER BY position"
        )
        return tuple(row[0] for row in self.all(text, (after, up_to)))

    def keys_without_row(self, kind: Kind, after: int, up_to: int) -> tuple[str, ...]:
        """Return keys of streams that begin within a range and have no row."""
        start = len(kind.prefix) + 1
        text = (
            f"SELECT substr(e.stream, {start}) FROM events AS e"
            " WHERE e.position > ? AND e.position <= ? AND e.version = 1"
            f" AND substr(e.stream, 1, {start - 1}) = '{kind.prefix}'"
            f" AND NOT EXISTS (SELECT 1 FROM {kind.table} AS t"
            f" WHERE t.{kind.key} = substr(e.stream, {start}))"
        )
        return tuple(row[0] for row in self.all(text, (after, up_to)))

    def stray_keys(self) -> tuple[str, ...]:
        """Return the tasks that `ready` and `timers` name but that do not exist."""
        parts = (
            f"SELECT task_id FROM {table} AS d WHERE NOT EXISTS"
            " (SELECT 1 FROM tasks AS t WHERE t.id = d.task_id)"
            for table in ("ready", "timers")
        )
        return tuple(row[0] for row in self.all(" UNION ".join(parts)))

    def page(self, kind: Kind, keys: Sequence[str]) -> Page:
        """Return the rows and the streams of these keys."""
        derived = self._derived(keys) if kind is TASKS else {}
        stored = self._rows(kind.table, kind.key, kind.columns, keys)
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
        ready = self._rows("ready", "task_id", READY_COLUMNS, keys)
        timers = self._rows("timers", "task_id", TIMER_COLUMNS, keys)
        return {key: Derived(ready.get(key), timers.get(key)) for key in keys}

    def _rows(
        self, table: str, key: str, names: Sequence[str], keys: Sequence[str]
    ) -> dict[str, Row]:
        # Straight from the driver: a converted value could hide what is really stored.
        text = f"SELECT {columns(names)} FROM {table} WHERE {key} = ANY(?)"
        found = (
            dict(zip(names, row, strict=True))
            for row in self.all(text, (self.dialect.array(keys),))
        )
        return {row[key]: row for row in found}
