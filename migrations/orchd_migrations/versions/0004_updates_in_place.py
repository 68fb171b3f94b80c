"""A task that starts and ends changes no index of `tasks`.

What was found by the status of a task is in two tables beside it. Releases before go on,
and find what they look for, more slowly.
"""

from __future__ import annotations

from alembic import op

from orchd_migrations import dialect_of
from orchd_migrations.scripts import execute, script

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the migration."""
    connection = op.get_bind().connection.driver_connection
    execute(connection, script("0004_updates_in_place", dialect_of(connection)))
