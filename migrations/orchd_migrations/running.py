"""Runs migrations on a connection, one after the other, through Alembic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

from orchd_migrations import HEAD, REVISIONS, UnknownRevision, dialect_of


def alembic_config() -> Config:
    """Return Alembic's configuration: only where the scripts are."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    return config


def migrate(connection: Any) -> list[str]:
    """Apply what is missing, each migration in a transaction; see `upgrade`."""
    with _for_alembic(connection) as bind:
        before: str | None = MigrationContext.configure(bind).get_current_revision()
        bind.rollback()
        if before is not None and before not in REVISIONS:
            raise UnknownRevision(before)
        if before == HEAD:
            return []
        upgrade_to(bind, "head")
        start = 0 if before is None else REVISIONS.index(before) + 1
        return list(REVISIONS[start:])


def upgrade_to(bind: sa.Connection, revision: str) -> None:
    """Let Alembic upgrade up to a revision."""
    config = alembic_config()
    config.attributes["connection"] = bind
    command.upgrade(config, revision)
    bind.commit()


@contextmanager
def _for_alembic(connection: Any) -> Iterator[sa.Connection]:
    """Lend the driver's connection to Alembic, who knows SQLAlchemy's only."""
    is_postgresql = dialect_of(connection) == "postgresql"
    engine = sa.create_engine(
        "postgresql+psycopg://" if is_postgresql else "sqlite://",
        creator=lambda: connection,
        poolclass=sa.pool.StaticPool,
    )
    if is_postgresql:
        connection.autocommit = False
    try:
        # The engine is not disposed of: the connection is its owner's to close.
        with engine.connect() as bind:
            yield bind
    finally:
        if is_postgresql:
            connection.autocommit = True
