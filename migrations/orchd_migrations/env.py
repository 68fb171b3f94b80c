"""Alembic's environment: it always runs on the connection that the caller hands over."""

from __future__ import annotations

from alembic import context

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=None,
    transaction_per_migration=True,
    # SQLite's driver would otherwise commit before each DDL statement.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
