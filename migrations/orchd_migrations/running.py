"""Runs migrations on a connection, one after the other, through Alembic."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

from orchd_migrations import HEAD, REVISIONS, UnknownRevision


def alembic_config() -> Config:
    """Return Alembic's configuration: only where the scripts are."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    return config


def migrate(connection: sa.Connection) -> list[str]:
    """Apply what is missing, each migration in a transaction; see `upgrade`."""
    before: str | None = MigrationContext.configure(connection).get_current_revision()
    connection.rollback()
    if before is not None and before not in REVISIONS:
        raise UnknownRevision(before)
    if before == HEAD:
        return []
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    connection.commit()
    start = 0 if before is None else REVISIONS.index(before) + 1
    return list(REVISIONS[start:])
