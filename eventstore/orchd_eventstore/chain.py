"""The hash chain over the commits of a log.

`hash = sha256(previous hash ‖ sha256(frame))` in lower-case hexadecimal, where the frame
of a commit is the netstrings (length ":" bytes ",", see D. J. Bernstein, "Netstrings",
1997) of its command id, its time in microseconds and, for each event in order, position,
stream, version, type, data and meta. On PostgreSQL the database computes the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from orchd_eventstore.events import RecordedEvent


def commit_hash(
    previous: str, command_id: str, recorded_at: int, events: Iterable[RecordedEvent]
) -> str:
    """Return the hash of a commit that follows the commit with hash `previous`."""
    frame = hashlib.sha256(_netstrings(command_id, str(recorded_at)))
    for event in events:
        frame.update(
            _netstrings(
                str(event.position),
                event.stream,
                str(event.version),
                event.type,
                event.data,
                event.meta,
            )
        )
    return hashlib.sha256((previous + frame.hexdigest()).encode()).hexdigest()


def _netstrings(*fields: str) -> bytes:
    encoded = [field.encode() for field in fields]
    return b"".join(b"%d:%b," % (len(field), field) for field in encoded)
