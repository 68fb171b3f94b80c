"""The history of the database's schema, and what is done with it.

A migration is frozen once it has been released: it holds its SQL as text, one file per
database in `sql/`, and imports nothing of the program, so that it does the same for ever.
All functions take a connection of the driver's in autocommit mode, psycopg's or SQLite's.
Alembic, and SQLAlchemy with it, is imported only where an older schema is upgraded.
"""

from __future__ import annotations

from typing import Any

HEAD = "0005"
"""The newest revision that this release knows."""
REVISIONS = ("0001", "0002", "0003", "0004", "0005")
"""All revisions that this release knows, oldest first."""


class UnknownRevision(Exception):
    """The database has a schema that this release does not know: a newer one."""

    def __init__(self, revision: str) -> None:
        super().__init__(f"the database has the unknown schema revision {revision}")
        self.revision = revision


def dialect_of(connection: Any) -> str:
    """Return `sqlite` or `postgresql`."""
    return "postgresql" if hasattr(connection, "pgconn") else "sqlite"


def current(connection: Any) -> str | None:
    """Return the database's revision, or None when it has no schema of orchd."""
    # Alembic's own table, read without Alembic: every start asks this question, and the
    # import would take a third of the time that a start has.
    if not has_version(connection):
        return None
    found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if found is None else str(found[0])


def has_version(connection: Any) -> bool:
    """Tell whether the database has ever had a schema of orchd."""
    return "alembic_version" in tables(connection)


def tables(connection: Any) -> set[str]:
    """Return the names of the tables that there are."""
    query = "SELECT name FROM sqlite_master WHERE type = 'table'"
    if dialect_of(connection) == "postgresql":
        query = (
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p')"
            " AND pg_table_is_visible(oid)"
            " AND relnamespace <> ALL ('{pg_catalog,information_schema}'::regnamespace[])"
        )
    return {name for (name,) in connection.execute(query).fetchall()}


def upgrade(connection: Any) -> list[str]:
    """Bring the schema to `HEAD`; return the revisions that were applied.

    Each migration is one transaction, and so is the whole schema of an empty database.
    Two programs that upgrade at the same moment take turns. A database that was interrupted
    in the middle is upgraded by the next call.

    Raises:
        UnknownRevision: the schema is newer than this release.
    """
    from orchd_migrations.upgrading import upgrade_database

    return upgrade_database(connection)


def statements(dialect: str) -> list[str]:
    """Return the statements that build the whole schema, for a DBA to run.

    Args:
        dialect: `sqlite` or `postgresql`.
    """
    from orchd_migrations.scripts import schema

    return schema(dialect)
