"""A claim hands its events to the append as arrays, and tells of fresh tasks what differs.

On SQLite there is nothing to change. Releases before go on, and are told whole rows.
"""

from __future__ import annotations

from alembic import op

from orchd_migrations import dialect_of
from orchd_migrations.scripts import execute, script

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the migration."""
    connection = op.get_bind().connection.driver_connection
    execute(connection, script("0005_claims_in_arrays", dialect_of(connection)))
