"""Claims travel within the append, and commits are hashed so that data can be erased.

Only adds: releases that know 0001 alone go on beside newer ones, with the function that
appends under the signature that they call. It goes with the release after this one.
"""

from __future__ import annotations

from alembic import op

from orchd_migrations import dialect_of
from orchd_migrations.scripts import execute, script

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the migration."""
    connection = op.get_bind().connection.driver_connection
    execute(connection, script("0002_one_round_trip", dialect_of(connection)))
