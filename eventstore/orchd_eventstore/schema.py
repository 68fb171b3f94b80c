"""The store's tables; `orchd_eventstore.creation` has what the databases need beside them.

Nobody who opens a store imports this: SQLAlchemy takes 15 MB and a third of a start.

events    one row per event, never changed
commits   one row per commit: idempotency and hash chain
log_head  one row: the end of the log, and the lock that orders commits
blobs     large bodies by the hash of their content
erasures  what was erased from events, with the hash of what was there
counters  named sums, kept in the transaction of the events that they count
"""

from __future__ import annotations

import sqlalchemy as sa

INSTANT = sa.Text().with_variant(sa.DateTime(timezone=True), "postgresql")
"""See `orchd_eventstore.instants`."""

metadata = sa.MetaData()

events = sa.Table(
    "events",
    metadata,
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("stream", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("meta", sa.Text, nullable=False),
    sa.Column("recorded_at", INSTANT, nullable=False),
    sa.UniqueConstraint("stream", "version", name="events_stream_version_key"),
)
commits = sa.Table(
    "commits",
    metadata,
    sa.Column("last_position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("command_id", sa.Text, nullable=False),
    sa.Column("events", sa.Integer, nullable=False),
    sa.Column("recorded_at", INSTANT, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    # By which rules the hash was made; see `orchd_eventstore.chain`.
    sa.Column("rules", sa.Integer, nullable=False, server_default=sa.text("1")),
    sa.UniqueConstraint("command_id", name="commits_command_id_key"),
)
log_head = sa.Table(
    "log_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("recorded_at", INSTANT),
    sa.CheckConstraint("id = 1", name="log_head_one_row"),
)
blobs = sa.Table(
    "blobs",
    metadata,
    sa.Column("hash", sa.Text, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("encoding", sa.Text, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
erasures = sa.Table(
    "erasures",
    metadata,
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("data_hash", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("erased_by", sa.BigInteger, nullable=False),
)
counters = sa.Table(
    "counters",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)
