"""What the databases need beside the tables: head, triggers, and PostgreSQL's functions.

Nobody who opens a store imports this: migrations hold the same as text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from orchd_eventstore.chain import GENESIS_HASH
from orchd_eventstore.postgres_ddl import (
    append_function,
    append_procedure,
    postgres_erasure_trigger,
    postgres_triggers,
)
from orchd_eventstore.projection import Projection
from orchd_eventstore.schema import metadata
from orchd_eventstore.tables import Kind, Table

_TYPES: dict[Kind, sa.types.TypeEngine[Any]] = {
    Kind.TEXT: sa.Text(),
    Kind.NAME: sa.Text().with_variant(sa.Text(collation="C"), "postgresql"),
    Kind.INTEGER: sa.BigInteger(),
    Kind.NUMBER: sa.Double(),
    Kind.FLAG: sa.Boolean(),
}
_FORBIDDEN = (
    ("events", "DELETE"),
    ("commits", "UPDATE"),
    ("commits", "DELETE"),
    ("blobs", "UPDATE"),
    ("erasures", "UPDATE"),
    ("erasures", "DELETE"),
)
_KEPT = ("position", "stream", "version", "type", "meta", "recorded_at")
"""The columns of an event that even an erasure leaves alone."""


def declared(
    table: Table, tables: sa.MetaData, *constraints: sa.CheckConstraint
) -> sa.Table:
    """Return SQLAlchemy's declaration of a table, part of `tables`."""
    key = table.columns[0]
    columns = [
        sa.Column(
            column.name,
            _TYPES[column.kind],
            primary_key=column is key,
            nullable=column.is_optional,
        )
        for column in table.columns
    ]
    return sa.Table(table.name, tables, *columns, *constraints)


def ddl(
    dialect: str, projections: Iterable[Projection] = (), producer: str | None = None
) -> list[str]:
    """Return the statements that follow the creation of the tables.

    They put the head in place, forbid changes of what is written once, and on PostgreSQL
    make the function that appends. `producer` is the function that it asks for more, see
    `orchd_eventstore.backend.Producer`.
    """
    statements = [
        f"INSERT INTO log_head (id, position, hash) VALUES (1, 0, '{GENESIS_HASH}')"
    ]
    if dialect == "sqlite":
        refused = [_sqlite_trigger(table, verb) for table, verb in _FORBIDDEN]
        replaced = [_sqlite_replace_trigger(*names) for names in _IRREPLACEABLE]
        return [*statements, *refused, _sqlite_erasure_trigger(), *replaced]
    return [
        *statements,
        *postgres_triggers(_FORBIDDEN),
        *postgres_erasure_trigger(_KEPT),
        append_function(tuple(projections), producer),
        append_procedure(tuple(projections)),
    ]


# What makes a row the same one: (table, what the trigger is named after, columns).
_IRREPLACEABLE = (
    ("events", "position", ("position",)),
    ("events", "version", ("stream", "version")),
    ("commits", "position", ("last_position",)),
    ("commits", "command", ("command_id",)),
    ("erasures", "position", ("position",)),
)


def _sqlite_replace_trigger(table: str, name: str, columns: tuple[str, ...]) -> str:
    """Return the trigger against INSERT OR REPLACE.

    REPLACE deletes the row in its way, and no trigger for DELETE hears of it.
    """
    same = " AND ".join(f"{column} = NEW.{column}" for column in columns)
    return (
        f"CREATE TRIGGER {table}_refuse_same_{name} BEFORE INSERT ON {table}\n"
        f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {same})\n"
        f"BEGIN SELECT RAISE(ABORT, '{table} is written once: REPLACE refused'); END"
    )


def _sqlite_trigger(table: str, verb: str) -> str:
    return (
        f"CREATE TRIGGER {table}_refuse_{verb.lower()} BEFORE {verb} ON {table}\n"
        f"BEGIN SELECT RAISE(ABORT, '{table} is written once: {verb} refused'); END"
    )


def _sqlite_erasure_trigger() -> str:
    kept = " AND ".join(f"NEW.{column} IS OLD.{column}" for column in _KEPT)
    return (
        "CREATE TRIGGER events_refuse_update BEFORE UPDATE ON events\n"
        f"WHEN NOT ({kept}\n"
        "  AND EXISTS (SELECT 1 FROM erasures"
        " WHERE position = OLD.position AND data = NEW.data))\n"
        "BEGIN SELECT RAISE(ABORT, 'events is written once: UPDATE refused'); END"
    )


def create_all(connection: sa.Connection, projections: Iterable[Projection] = ()) -> None:
    """Create everything in an empty database; migrations do it for real ones."""
    metadata.create_all(connection, checkfirst=False)
    execute_all(connection, ddl(connection.dialect.name, projections))


def execute_all(connection: sa.Connection, statements: Iterable[str]) -> None:
    """Execute statements as they are: a `%` in them is no placeholder."""
    cursor = connection.connection.cursor()
    for statement in statements:
        cursor.execute(statement)
    cursor.close()
