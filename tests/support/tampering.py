"""Changes a state behind orchd's back, as somebody with a database shell would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from orchd_eventstore.sqlite import driver


@contextmanager
def connected(url: str) -> Iterator[sa.Connection]:
    """Lend a connection that commits at the end."""
    options: dict[str, Any] = {"poolclass": sa.pool.NullPool}
    if url.startswith("sqlite:"):
        options["module"] = driver()
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), **options)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def tamper(url: str, statement: str, parameters: tuple[Any, ...] = ()) -> None:
    """Run a statement with `?` for parameters, without constraints and triggers."""
    with connected(url) as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
            for name in _sqlite_triggers(connection):
                connection.exec_driver_sql(f"DROP TRIGGER {name}")
            connection.exec_driver_sql(statement, parameters)
            return
        _drop_rules(connection)
        connection.exec_driver_sql("SET session_replication_role = replica")
        connection.exec_driver_sql(statement.replace("?", "%s"), parameters)


def _sqlite_triggers(connection: sa.Connection) -> list[str]:
    rows = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type='trigger'")
    return [row[0] for row in rows]


def _drop_rules(connection: sa.Connection) -> None:
    rows = connection.exec_driver_sql(
        "SELECT conrelid::regclass::text, conname FROM pg_constraint"
        " WHERE contype = 'c' AND connamespace = 'public'::regnamespace"
    )
    for table, name in rows.all():
        connection.exec_driver_sql(f'ALTER TABLE {table} DROP CONSTRAINT "{name}"')


def query(url: str, statement: str) -> list[Any]:
    """Return the rows of a statement."""
    with connected(url) as connection:
        return list(connection.exec_driver_sql(statement))
