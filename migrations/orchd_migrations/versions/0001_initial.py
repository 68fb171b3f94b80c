"""Format v1: the log, its projections, and the tables derived from them."""

from __future__ import annotations

from alembic import op

from orchd_migrations import dialect_of
from orchd_migrations.scripts import execute, script

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the migration."""
    connection = op.get_bind().connection.driver_connection
    execute(connection, script("0001_initial", dialect_of(connection)))
