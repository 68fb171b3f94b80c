"""Brings a database's schema to the newest revision, one program at a time.

An empty database gets everything at once, in one transaction and without Alembic, whose
import takes longer than the rest of a first start, and 8 MB for as long as a daemon runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orchd_migrations import (
    HEAD,
    REVISIONS,
    current,
    dialect_of,
    has_version,
    scripts,
)

UPGRADE_LOCK = 7_163_582_104_921_377
"""PostgreSQL: the advisory lock that upgraders take in turns."""
LOCK_TIMEOUT = "30s"


def upgrade_database(connection: Any) -> list[str]:
    """See `orchd_migrations.upgrade`."""
    with _in_turn(connection):
        if current(connection) == HEAD:
            # Whoever had the turn before did it.
            return []
        if not has_version(connection):
            _build(connection)
            return list(REVISIONS)
        from orchd_migrations.running import migrate

        return migrate(connection)


@contextmanager
def _in_turn(connection: Any) -> Iterator[None]:
    if dialect_of(connection) != "postgresql":
        # One process at a time writes to a SQLite file, by the lock beside it.
        yield
        return
    connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
    connection.execute(f"SELECT pg_advisory_lock({UPGRADE_LOCK})")
    try:
        yield
    finally:
        connection.execute(f"SELECT pg_advisory_unlock({UPGRADE_LOCK})")


def _build(connection: Any) -> None:
    dialect = dialect_of(connection)
    transaction = connection.transaction() if dialect == "postgresql" else connection
    with transaction:
        scripts.execute(connection, scripts.schema(dialect))
