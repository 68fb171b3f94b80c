"""The history of the database's schema, and what is done with it.

A migration is frozen once it has been released: it holds its SQL as text, one file per
database in `sql/`, and imports nothing of the program, so that it does the same for ever.
All functions take a SQLAlchemy connection in autocommit mode or outside a transaction, and
import Alembic only when they are called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection

HEAD = "0004"
"""The newest revision that this release knows."""
REVISIONS = ("0001", "0002", "0003", "0004")
"""All revisions that this release knows, oldest first."""


class UnknownRevision(Exception):
    """The database has a schema that this release does not know: a newer one."""

    def __init__(self, revision: str) -> None:
        super().__init__(f"the database has the unknown schema revision {revision}")
        self.revision = revision


def current(connection: Connection) -> str | None:
    """Return the database's revision, or None when it has no schema of orchd."""
    # Alembic's own table, read without Alembic: every start asks this question, and the
    # import would take a third of the time that a start has.
    if not has_version(connection):
        return None
    revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version")
    return revision.scalar()


def has_version(connection: Connection) -> bool:
    """Tell whether the database has ever had a schema of orchd."""
    import sqlalchemy as sa

    return sa.inspect(connection).has_table("alembic_version")


def upgrade(connection: Connection) -> list[str]:
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
