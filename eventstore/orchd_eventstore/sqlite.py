"""The store on SQLite: one connection writes, all others only read.

That rule is more than a courtesy: SQLite 3.7.0 to 3.51.2 can corrupt a database in WAL
mode when two connections write or checkpoint at the same moment.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from types import ModuleType
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from orchd_eventstore.backend import (
    COMMIT_EVENTS,
    COMMIT_RANGE,
    Projections,
    halves,
    joined,
    resolved,
)
from orchd_eventstore.chain import commit_hash
from orchd_eventstore.errors import (
    BatchRejected,
    EventStoreError,
    StoreUnavailable,
    rejecting,
    translated,
)
from orchd_eventstore.events import (
    ANY_VERSION,
    NO_STREAM,
    Append,
    Appended,
    Blob,
    Commit,
    Conflict,
    Outcome,
    RecordedEvent,
    Rejected,
)
from orchd_eventstore.news import News
from orchd_eventstore.projection import Projection
from orchd_eventstore.schema import instant_of, instant_text

BUSY_TIMEOUT_SECONDS = 5.0
CHECKPOINT_PAGES = 1_000


def driver() -> ModuleType:
    """Return the newer SQLite of `pysqlite3` where there is one, else Python's own."""
    try:
        from pysqlite3 import dbapi2
    except ImportError:
        return sqlite3
    module: ModuleType = dbapi2
    return module


class SqliteBackend:
    """One SQLite file."""

    placeholder = "?"

    def __init__(
        self,
        path: str,
        projections: Projections,
        *,
        clock: Callable[[], int] | None = None,
        read_only: bool = False,
        readers: int = 4,
    ) -> None:
        self._path = path
        self._projections = projections
        self._clock = clock or self._sql_clock
        self._module = driver()
        self._lock = threading.RLock()
        self.news = News()
        self._read_only = read_only
        self._readers = sa.create_engine(
            "sqlite://",
            module=self._module,
            creator=lambda: self._connect("ro"),
            poolclass=sa.pool.QueuePool,
            pool_size=readers,
            max_overflow=readers,
        )
        self._writer: Any = None
        self._statements = {name: _statements(p) for name, p in projections.items()}
        if not read_only:
            with translated():
                self._writer = self._connect("rwc")
                self._prepare(self._writer)

    def _connect(self, mode: str) -> Any:
        connection = self._module.connect(
            f"file:{quote(self._path)}?mode={mode}",
            uri=True,
            timeout=BUSY_TIMEOUT_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        if mode == "ro":
            connection.execute("PRAGMA query_only = ON")
        return connection

    def _prepare(self, writer: Any) -> None:
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
            f"journal_size_limit = {64 * 1024 * 1024}",
        ):
            writer.execute(f"PRAGMA {pragma}").fetchall()
        mode = writer.execute("PRAGMA journal_mode").fetchone()[0]
        synchronous = writer.execute("PRAGMA synchronous").fetchone()[0]
        if (mode, synchronous) != ("wal", 2):
            raise EventStoreError(
                f"{self._path} does not take the settings that make commits durable: "
                f"journal_mode is {mode}, synchronous is {synchronous}"
            )

    # --- writing ----------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[SqliteTransaction]:
        if self._writer is None:
            raise StoreUnavailable(f"{self._path} is open for reading only")
        with self._lock:
            with translated():
                self._writer.execute("BEGIN IMMEDIATE")
            transaction = SqliteTransaction(
                self._writer, self._projections, self._statements, self._clock
            )
            try:
                yield transaction
            finally:
                if self._writer.in_transaction:
                    with suppress(Exception):
                        self._writer.execute("ROLLBACK")
        if transaction.committed:
            self.news.tell()

    def append(
        self, items: Sequence[Append], command_id: str, blobs: Sequence[Blob]
    ) -> Commit:
        with self.transaction() as transaction:
            return transaction.append(items, command_id, blobs)

    def writer_connection(self) -> Any:
        """Return the driver's connection that writes, for migrations."""
        return self._writer

    # --- reading ----------------------------------------------------------------------

    @contextmanager
    def reader(self) -> Iterator[sa.Connection]:
        with translated(), self._readers.connect() as connection:
            yield connection

    def now(self) -> int:
        return self._clock()

    def _sql_clock(self) -> int:
        with self.reader() as connection:
            days = "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"
            return int(connection.exec_driver_sql(f"SELECT {days}").scalar_one())

    def close(self) -> None:
        self._readers.dispose()
        with self._lock:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()
        self.news.tell()


class _Statements:
    """The statements of one projection."""

    def __init__(self, projection: Projection) -> None:
        table, key = projection.table.name, projection.key
        columns = ", ".join(f'"{name}"' for name in projection.columns)
        marks = ", ".join("?" * len(projection.columns))
        changes = ", ".join(f'"{name}" = ?' for name in projection.mutable)
        self.insert = (
            f"INSERT INTO {table} ({columns}) VALUES ({marks}) ON CONFLICT DO NOTHING"
        )
        self.update = f'UPDATE {table} SET {changes} WHERE "{key}" = ? AND "version" = ?'


def _statements(projection: Projection) -> _Statements:
    return _Statements(projection)


class SqliteTransaction:
    """The write transaction of a `SqliteBackend`."""

    def __init__(
        self,
        connection: Any,
        projections: Projections,
        statements: dict[str, _Statements],
        clock: Callable[[], int],
    ) -> None:
        self._connection = connection
        self._projections = projections
        self._statements = statements
        self._clock = clock
        self.committed = False

    def execute(
        self, statement: str, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        with translated():
            rows: list[tuple[Any, ...]] = self._connection.execute(
                statement, tuple(parameters)
            ).fetchall()
            return rows

    def execute_all(
        self, statements: Sequence[tuple[str, Sequence[Any]]]
    ) -> list[list[tuple[Any, ...]]]:
        return [self.execute(statement, parameters) for statement, parameters in statements]

    def commit(self) -> None:
        with translated(at_commit=True):
            self._connection.execute("COMMIT")
        self.committed = True

    def append(
        self, items: Sequence[Append], command_id: str, blobs: Sequence[Blob]
    ) -> Commit:
        commit = self._append(items, command_id, blobs)
        self.commit()
        return commit

    def _append(
        self, items: Sequence[Append], command_id: str, blobs: Sequence[Blob]
    ) -> Commit:
        found = self.execute(COMMIT_RANGE.format(at="recorded_at", mark="?"), (command_id,))
        if found:
            first, last, recorded_at = found[0]
            rows = self.execute(COMMIT_EVENTS.format(mark="?"), (first, last))
            return resolved(items, command_id, _instant(recorded_at), rows)
        self.execute("SAVEPOINT batch")
        try:
            with translated(), rejecting():
                commit = self._store(items, command_id, blobs)
        except BatchRejected as rejected:
            self.execute("ROLLBACK TO batch")
            return self._bisect(items, command_id, blobs, rejected)
        self.execute("RELEASE batch")
        return commit

    def _bisect(
        self,
        items: Sequence[Append],
        command_id: str,
        blobs: Sequence[Blob],
        rejected: BatchRejected,
    ) -> Commit:
        if len(items) == 1:
            outcome = Rejected(reason=rejected.reason)
            return _commit(command_id, [outcome], None, None)
        parts = [
            self._append(part, command_id + end, blobs) for end, _, part in halves(items)
        ]
        return joined(command_id, parts)

    def _store(
        self, items: Sequence[Append], command_id: str, blobs: Sequence[Blob]
    ) -> Commit:
        connection = self._connection
        for blob in blobs:
            connection.execute(
                "INSERT INTO blobs (hash, size, encoding, body) VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO NOTHING",
                (blob.hash, blob.size, blob.encoding, blob.body),
            )
        bases = [self._win(item) for item in items]
        if all(base is None for base in bases):
            return _commit(command_id, [Conflict() for _ in items], None, None)
        position, previous, recorded = connection.execute(
            "SELECT position, hash, recorded_at FROM log_head WHERE id = 1"
        ).fetchone()
        stamp = max(self._clock(), 0 if recorded is None else _instant(recorded))
        outcomes, events = _placed(items, bases, position, stamp)
        digest = commit_hash(previous, command_id, stamp, events)
        self._insert(command_id, events, digest, stamp)
        self._count(items, bases)
        return _commit(command_id, outcomes, events, stamp)

    def _win(self, item: Append) -> int | None:
        """Return the version that the item's events follow, or None if it loses."""
        _require_no_nul(item)
        if item.projection is None:
            found = self._connection.execute(
                "SELECT coalesce(max(version), 0) FROM events WHERE stream = ?",
                (item.stream,),
            ).fetchone()[0]
            fits = item.expected_version in (ANY_VERSION, found)
            return int(found) if fits else None
        projection, row = self._projections[item.projection], item.row
        assert row is not None
        statements = self._statements[item.projection]
        if item.expected_version == NO_STREAM:
            values = projection.values(row, projection.columns)
            changed = self._connection.execute(statements.insert, values).rowcount
        else:
            values = projection.values(row, projection.mutable)
            values += [row[projection.key], item.expected_version]
            changed = self._connection.execute(statements.update, values).rowcount
        return item.expected_version if changed == 1 else None

    def _insert(
        self, command_id: str, events: list[RecordedEvent], digest: str, stamp: int
    ) -> None:
        recorded_at = instant_text(stamp)
        self._connection.executemany(
            "INSERT INTO events (position, stream, version, type, data, meta, recorded_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (e.position, e.stream, e.version, e.type, e.data, e.meta, recorded_at)
                for e in events
            ],
        )
        last = events[-1].position
        self._connection.execute(
            "INSERT INTO commits (last_position, command_id, events, recorded_at, hash)"
            " VALUES (?, ?, ?, ?, ?)",
            (last, command_id, len(events), recorded_at, digest),
        )
        self._connection.execute(
            "UPDATE log_head SET position = ?, hash = ?, recorded_at = ? WHERE id = 1",
            (last, digest, recorded_at),
        )

    def _count(self, items: Sequence[Append], bases: Sequence[int | None]) -> None:
        totals: dict[str, int] = {}
        for item, base in zip(items, bases, strict=True):
            if base is not None:
                for name, delta in item.counters.items():
                    totals[name] = totals.get(name, 0) + delta
        self._connection.executemany(
            "INSERT INTO counters (name, value) VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
            [(name, delta) for name, delta in totals.items() if delta],
        )


def _require_no_nul(item: Append) -> None:
    """Refuse the one character that PostgreSQL refuses, so that both store the same."""
    texts = [item.stream, *(item.row or {}).values()]
    texts += [event.type for event in item.events]
    if any(isinstance(text, str) and "\0" in text for text in texts):
        raise BatchRejected(f"a text of stream {item.stream!r} contains NUL")


def _instant(text: str) -> int:
    return instant_of(datetime.fromisoformat(text))


def _placed(
    items: Sequence[Append], bases: Sequence[int | None], position: int, stamp: int
) -> tuple[list[Outcome], list[RecordedEvent]]:
    outcomes: list[Outcome] = []
    events: list[RecordedEvent] = []
    for item, base in zip(items, bases, strict=True):
        if base is None:
            outcomes.append(Conflict())
            continue
        first = position + 1
        for number, new in enumerate(item.events, start=1):
            position += 1
            events.append(
                RecordedEvent(
                    position,
                    item.stream,
                    base + number,
                    new.type,
                    new.data,
                    new.meta,
                    stamp,
                )
            )
        version = base + len(item.events)
        outcomes.append(
            Appended(first_position=first, last_position=position, version=version)
        )
    return outcomes, events


def _commit(
    command_id: str,
    outcomes: Sequence[Outcome],
    events: list[RecordedEvent] | None,
    stamp: int | None,
) -> Commit:
    return Commit(
        command_id=command_id,
        first_position=events[0].position if events else None,
        last_position=events[-1].position if events else None,
        recorded_at=stamp,
        outcomes=tuple(outcomes),
    )
