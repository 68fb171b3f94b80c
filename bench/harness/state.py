"""orchd's own state, seen from outside: its schema and its counters."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import Any

import psycopg

import orchd_migrations
from orchd.ledger.urls import is_sqlite, sqlite_path
from orchd_eventstore.sqlite import driver

COUNTER = "SELECT value FROM counters WHERE name = {mark}"


def create_schema(url: str) -> None:
    """Make orchd's schema in an empty database, by its migrations."""
    if is_sqlite(url):
        connection: Any = driver().connect(str(sqlite_path(url)), isolation_level=None)
    else:
        connection = psycopg.connect(url, autocommit=True)
    with closing(connection):
        orchd_migrations.upgrade(connection)


def connect(url: str) -> Any:
    """Connect with the driver that orchd uses, to read."""
    if is_sqlite(url):
        path = f"file:{sqlite_path(url)}?mode=ro"
        return driver().connect(path, uri=True, timeout=5)
    return psycopg.connect(url, autocommit=True)


def settle(url: str) -> None:
    """Have done now what would be done in the minutes after a database was filled.

    PostgreSQL cleans and counts what is new, and the kernel writes gigabytes to the disk.
    """
    if not is_sqlite(url):
        with closing(connect(url)) as connection:
            connection.execute("VACUUM ANALYZE")
            connection.execute("CHECKPOINT")
    os.sync()


class Counts:
    """Reads orchd's counters over a connection that is kept."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None
        self._mark = "?" if is_sqlite(url) else "%s"

    def get(self, name: str) -> int:
        """Return a counter, or 0 while there is none."""
        try:
            if self._connection is None:
                self._connection = connect(self._url)
            query = COUNTER.format(mark=self._mark)
            row = self._connection.execute(query, (name,)).fetchone()
        except (sqlite3.OperationalError, driver().OperationalError, psycopg.Error):
            # Nobody has made the state yet, or whoever makes it is just at it.
            self.close()
            return 0
        return int(row[0]) if row else 0

    def close(self) -> None:
        """Let go of the connection; idempotent."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
