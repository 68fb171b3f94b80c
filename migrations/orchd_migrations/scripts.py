"""The SQL of a migration, as it is stored beside this module."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from orchd_migrations import HEAD, REVISIONS, dialect_of

SEPARATOR = "\n--;;\n"
"""A line that ends a statement: bodies of functions contain semicolons."""
_NAMES = {
    "0001": "0001_initial",
    "0002": "0002_one_round_trip",
    "0003": "0003_erasing",
    "0004": "0004_updates_in_place",
    "0005": "0005_claims_in_arrays",
}


def script(name: str, dialect: str) -> list[str]:
    """Return the statements of `sql/<name>.<dialect>.sql`.

    Raises:
        FileNotFoundError: the migration has nothing to say about that database.
    """
    text = (files("orchd_migrations") / "sql" / f"{name}.{dialect}.sql").read_text()
    return [part.strip() for part in text.split(SEPARATOR) if part.strip()]


def schema(dialect: str, head: str = HEAD) -> list[str]:
    """Return the statements that build the whole schema; `head` is where to stop."""
    statements = [
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, "
        "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
    ]
    for revision in REVISIONS[: REVISIONS.index(head) + 1]:
        statements += script(_NAMES[revision], dialect)
    statements.append(f"INSERT INTO alembic_version (version_num) VALUES ('{head}')")
    return statements


def execute(connection: Any, statements: list[str]) -> None:
    """Run statements as they are: a `%` or a `:name` in them is no placeholder.

    They are part of the caller's transaction, which on SQLite begins here at the latest:
    its driver begins none by itself, and each statement would stand alone.
    """
    if dialect_of(connection) == "sqlite" and not connection.in_transaction:
        connection.execute("BEGIN IMMEDIATE")
    for statement in statements:
        connection.execute(statement)
