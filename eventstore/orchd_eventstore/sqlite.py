"""The store on SQLite: one connection writes, all others only read.

That rule is more than a courtesy: SQLite 3.7.0 to 3.51.2 can corrupt a database in WAL
mode when two connections write or checkpoint at the same moment.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from types import ModuleType
from typing import Any
from urllib.parse import quote

from orchd_eventstore.backend import Producer, Projections
from orchd_eventstore.errors import EventStoreError, StoreUnavailable, translated
from orchd_eventstore.events import Append, Blob, Commit
from orchd_eventstore.news import News
from orchd_eventstore.pool import Pool
from orchd_eventstore.sqlite_rows import RowWriter
from orchd_eventstore.sqlite_transaction import SqliteTransaction

BUSY_TIMEOUT_SECONDS = 5.0
CHECKPOINT_PAGES = 1_000


@cache
def driver() -> ModuleType:
    """Return the newer SQLite of `pysqlite3` where there is one, else Python's own."""
    module = _installed()
    # Where a type has no adapter the driver looks for a protocol, in vain; for the many
    # NULL of a task's row that took a third of the time of its insertion.
    module.register_adapter(type(None), _none)
    module.register_adapter(bool, int)
    return module


def _installed() -> ModuleType:
    try:
        from pysqlite3 import dbapi2
    except ImportError:
        import sqlite3

        return sqlite3
    module: ModuleType = dbapi2
    return module


_none = dict[None, None]().get
"""Returns None for None, without the cost of a Python function."""


class SqliteBackend:
    """One SQLite file."""

    placeholder = "?"
    appends_max = 1

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
        self.on_sent: Callable[[], None] = lambda: None
        self._clock = clock or self._sql_clock
        self._module = driver()
        self._lock = threading.RLock()
        self.news = News()
        self._read_only = read_only
        self._readers = Pool(
            lambda: self._connect("ro"), _settle, kept=readers, most=2 * readers
        )
        self._writer: Any = None
        self._doubtful = False
        """Whether the disk failed, so that nobody knows what of the log is on it."""
        self._row_writers = {name: RowWriter(p) for name, p in projections.items()}
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
            # What rows held before they moved does not stay behind in their pages.
            "secure_delete = FAST",
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
        with self._lock:
            try:
                transaction = self._begin()
                try:
                    yield transaction
                finally:
                    self._roll_back()
            except StoreUnavailable as error:
                self._doubtful |= error.disk_failed
                raise

    session = transaction
    """One writer needs no other kind: what a session reads is locked for it alone."""

    def _begin(self) -> SqliteTransaction:
        if self._writer is None:
            how = "open for reading only" if self._read_only else "closed"
            raise StoreUnavailable(f"{self._path} is {how}")
        if self._doubtful:
            self._reopen()
        with translated():
            self._writer.execute("BEGIN IMMEDIATE")
        return SqliteTransaction(self._writer, self._row_writers, self._clock)

    def _roll_back(self) -> None:
        if self._writer.in_transaction:
            with suppress(Exception):
                self._writer.execute("ROLLBACK")

    def _reopen(self) -> None:
        """Find out what is stored after an error of the disk, and make sure it is.

        When a sync has failed, the kernel may have dropped what it could not write, and
        the next sync says nothing of it. So the pages of the write-ahead log are copied
        into the database and synced there, before anything in them counts as stored.
        """
        with translated():
            self._writer.close()
            self._writer = self._connect("rwc")
            self._prepare(self._writer)
            busy, logged, copied = self._writer.execute(
                "PRAGMA wal_checkpoint(FULL)"
            ).fetchone()
        if busy or logged != copied:
            raise StoreUnavailable(f"{self._path}: the log could not be written back yet")
        self._doubtful = False

    def append(
        self,
        items: Sequence[Append],
        command_id: str,
        blobs: Sequence[Blob],
        producer: Producer | None,
    ) -> Commit:
        with self.transaction() as transaction:
            return transaction.append(items, command_id, blobs, producer)

    @contextmanager
    def scrubbing(self) -> Iterator[None]:
        with self._lock:
            self._pragma("secure_delete = ON")
            try:
                yield
            finally:
                self._pragma("secure_delete = FAST")
                self._pragma("wal_checkpoint(TRUNCATE)")

    def _pragma(self, text: str) -> None:
        if self._writer is not None:
            with translated():
                self._writer.execute(f"PRAGMA {text}").fetchall()

    def writer_connection(self) -> Any:
        """Return the driver's connection that writes, for migrations."""
        return self._writer

    # --- reading ----------------------------------------------------------------------

    @contextmanager
    def reader(self) -> Iterator[Any]:
        with translated(), self._readers.lend() as connection:
            yield connection

    def now(self) -> int:
        return self._clock()

    def _sql_clock(self) -> int:
        with self.reader() as connection:
            days = "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"
            return int(connection.execute(f"SELECT {days}").fetchone()[0])

    def close(self) -> None:
        self._readers.close()
        with self._lock:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()
        self.news.tell()


def _settle(connection: Any) -> None:
    """End what a borrower left open."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")
