"""The store's tables; `orchd_eventstore.creation` has what the databases need beside them.

events    one row per event, never changed
commits   one row per commit: idempotency and hash chain
log_head  one row: the end of the log, and the lock that orders commits
blobs     large bodies by the hash of their content
erasures  what was erased from events, with the hash of what was there
counters  named sums, kept in the transaction of the events that they count
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
GENESIS_HASH = "0" * 64
"""The hash that the first commit follows."""


class Instant(sa.types.TypeDecorator[int]):
    """Microseconds since the epoch, stored in the database's own idiom.

    PostgreSQL: `timestamptz`. SQLite: RFC 3339 text in UTC with six decimals, which sorts
    like the time it stands for.
    """

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(sa.DateTime(timezone=True))
        return dialect.type_descriptor(sa.Text())

    def process_bind_param(self, value: int | None, dialect: sa.Dialect) -> Any:
        if value is None:
            return None
        if dialect.name == "postgresql":
            return EPOCH + timedelta(microseconds=value)
        return instant_text(value)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> int | None:
        if value is None:
            return None
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        return instant_of(moment)


def instant_text(microseconds: int) -> str:
    """Return an instant as RFC 3339 text in UTC."""
    moment = EPOCH + timedelta(microseconds=microseconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"


def instant_of(moment: datetime) -> int:
    """Return an aware datetime as microseconds since the epoch."""
    return (moment - EPOCH) // timedelta(microseconds=1)


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
    sa.Column("recorded_at", Instant, nullable=False),
    sa.UniqueConstraint("stream", "version", name="events_stream_version_key"),
)
commits = sa.Table(
    "commits",
    metadata,
    sa.Column("last_position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("command_id", sa.Text, nullable=False),
    sa.Column("events", sa.Integer, nullable=False),
    sa.Column("recorded_at", Instant, nullable=False),
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
    sa.Column("recorded_at", Instant),
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
