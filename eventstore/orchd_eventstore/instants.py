"""Instants: microseconds since the epoch here, the database's own idiom there.

PostgreSQL has `timestamptz`. SQLite has RFC 3339 text in UTC with six decimals, which sorts
like the time it stands for.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def instant_text(microseconds: int) -> str:
    """Return an instant as RFC 3339 text in UTC."""
    moment = EPOCH + timedelta(microseconds=microseconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"


def instant_of(moment: datetime | str) -> int:
    """Return what a database holds for an instant as microseconds since the epoch."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return (moment - EPOCH) // timedelta(microseconds=1)
