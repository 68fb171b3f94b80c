"""Runs migrations on a connection, through Alembic."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

from orchd_migrations import HEAD, REVISIONS, UnknownRevision
from orchd_migrations.scripts import script

UPGRADE_LOCK = 7_163_582_104_921_377
"""PostgreSQL: the advisory lock that upgraders take in turns."""
LOCK_TIMEOUT = "30s"
_SCRIPTS = {
    "0001": "0001_initial",
    "0002": "0002_one_round_trip",
    "0003": "0003_erasing",
}


def alembic_config() -> Config:
    """Return Alembic's configuration: only where the scripts are."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    return config


def upgrade_database(connection: sa.Connection) -> list[str]:
    """See `orchd_migrations.upgrade`."""
    postgres = connection.dialect.name == "postgresql"
    if postgres:
        connection.exec_driver_sql(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({UPGRADE_LOCK})")
        connection.commit()
    try:
        return _upgrade(connection)
    finally:
        if postgres:
            connection.rollback()
            connection.exec_driver_sql(f"SELECT pg_advisory_unlock({UPGRADE_LOCK})")
            connection.commit()


def _upgrade(connection: sa.Connection) -> list[str]:
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


def offline_statements(dialect: str, head: str = HEAD) -> list[str]:
    """See `orchd_migrations.statements`; `head` is the revision to stop at."""
    statements = [
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, "
        "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
    ]
    for revision in REVISIONS[: REVISIONS.index(head) + 1]:
        statements += script(_SCRIPTS[revision], dialect)
    statements.append(f"INSERT INTO alembic_version (version_num) VALUES ('{head}')")
    return statements
