"""Brings a database's schema to the newest revision, one program at a time.

An empty database gets everything at once, in one transaction and without Alembic, whose
import takes longer than the rest of a first start, and 8 MB for as long as a daemon runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from orchd_migrations import HEAD, REVISIONS, current, has_version, scripts

if TYPE_CHECKING:
    from sqlalchemy import Connection

UPGRADE_LOCK = 7_163_582_104_921_377
"""PostgreSQL: the advisory lock that upgraders take in turns."""
LOCK_TIMEOUT = "30s"


def upgrade_database(connection: Connection) -> list[str]:
    """See `orchd_migrations.upgrade`."""
    with _in_turn(connection):
        if current(connection) == HEAD:
            # Whoever had the turn before did it.
            return []
        empty = not has_version(connection)
        connection.rollback()
        if empty:
            _build(connection)
            return list(REVISIONS)
        from orchd_migrations.running import migrate

        return migrate(connection)


@contextmanager
def _in_turn(connection: Connection) -> Iterator[None]:
    if connection.dialect.name != "postgresql":
        # One process at a time writes to a SQLite file, by the lock beside it.
        yield
        return
    connection.exec_driver_sql(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
    connection.exec_driver_sql(f"SELECT pg_advisory_lock({UPGRADE_LOCK})")
    connection.commit()
    try:
        yield
    finally:
        connection.rollback()
        connection.exec_driver_sql(f"SELECT pg_advisory_unlock({UPGRADE_LOCK})")
        connection.commit()


def _build(connection: Connection) -> None:
    dialect = connection.dialect.name
    driver: Any = connection.connection.driver_connection
    if dialect == "postgresql":
        with driver.transaction():
            scripts.execute(connection, scripts.schema(dialect))
        return
    with driver:
        scripts.execute(connection, scripts.schema(dialect))
