"""${message}

A migration is frozen once it is released. It holds SQL as text and imports nothing of the
program; the release before it must be able to work on the schema that it leaves.
"""

from __future__ import annotations

from alembic import op

from orchd_migrations.scripts import execute, script

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the migration."""
    connection = op.get_bind()
    execute(connection, script("${up_revision}_${slug}", connection.dialect.name))
