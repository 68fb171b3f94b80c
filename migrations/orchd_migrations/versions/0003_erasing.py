"""The data of events can be erased, and the chain still be verified.

On PostgreSQL an append also commits by itself, so that a frozen client holds nobody up.
Only adds: releases before it go on beside newer ones, and erase nothing.
"""

from __future__ import annotations

from alembic import op

from orchd_migrations import dialect_of
from orchd_migrations.scripts import execute, script

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the migration."""
    connection = op.get_bind().connection.driver_connection
    execute(connection, script("0003_erasing", dialect_of(connection)))
