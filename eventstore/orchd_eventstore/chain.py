"""The hash chain over the commits of a log.

`hash = sha256(previous hash ‖ sha256(frame))` in lower-case hexadecimal. The frame of a
commit is made of netstrings (length ":" bytes ",", see D. J. Bernstein, "Netstrings",
1997). A commit says by which rules it was hashed:

1   its command id, its time in microseconds and, for each event in order, position,
    stream, version, type, data and meta;
2   the text `2`, then the same, but the SHA-256 of each event's data in the place of the
    data. So data can be erased later and the chain still be verified.

On PostgreSQL the database computes the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from orchd_eventstore.events import RecordedEvent

GENESIS_HASH = "0" * 64
"""The hash that the first commit follows."""
CURRENT_RULES = 2
"""The rules by which new commits are hashed."""
KNOWN_RULES = (1, 2)
"""All rules that this release can verify."""


def commit_hash(
    previous: str,
    command_id: str,
    recorded_at: int,
    events: Iterable[RecordedEvent],
    rules: int = CURRENT_RULES,
    erased: Mapping[int, str] | None = None,
) -> str:
    """Return the hash of a commit that follows the commit with hash `previous`.

    Args:
        erased: position -> hash of the data that an event was written with, for events
            whose data were erased; only rules 2 can do with the hash.

    Raises:
        ValueError: the rules are none that this release knows.
    """
    if rules not in KNOWN_RULES:
        raise ValueError(f"commits are hashed by the unknown rules {rules}")
    head = () if rules == 1 else (str(rules),)
    frame = hashlib.sha256(_netstrings(*head, command_id, str(recorded_at)))
    known = erased or {}
    for event in events:
        if rules == 1:
            data = event.data
        else:
            data = known.get(event.position) or data_hash(event.data)
        frame.update(_event_frame(event, data))
    return hashlib.sha256((previous + frame.hexdigest()).encode()).hexdigest()


def _event_frame(event: RecordedEvent, data: str) -> bytes:
    """Return what the frame of a commit holds of one event."""
    position, stream, version = str(event.position), event.stream, str(event.version)
    # Nearly all text is ASCII, where characters are bytes; this is half of what hashing
    # costs, so it is written out.
    text = (
        f"{len(position)}:{position},{len(stream)}:{stream},{len(version)}:{version},"
        f"{len(event.type)}:{event.type},{len(data)}:{data},{len(event.meta)}:{event.meta},"
    )
    if text.isascii():
        return text.encode()
    return _netstrings(position, stream, version, event.type, data, event.meta)


def data_hash(data: str) -> str:
    """Return the SHA-256 of an event's data, as the chain covers it."""
    return hashlib.sha256(data.encode()).hexdigest()


def _netstrings(*fields: str) -> bytes:
    encoded = [field.encode() for field in fields]
    return b"".join(b"%d:%b," % (len(field), field) for field in encoded)
