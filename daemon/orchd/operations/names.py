"""What ids, keys and names may look like."""

from __future__ import annotations

LENGTH_MAX = 200

ID_RULE = (
    "must be 1 to 200 printable characters without '/', not '.' or '..', "
    "and neither begin nor end with a space"
)
KEY_RULE = "must be 1 to 200 printable characters, neither first nor last a space"
NAME_RULE = ID_RULE + ", and hold no '*'"


def is_key(text: str) -> bool:
    """Tell whether a text can be an idempotency key."""
    # `isprintable` is false for control, format (bidirectional marks), surrogate and
    # unassigned characters, so what passes can be shown in a log line as it is.
    return 0 < len(text) <= LENGTH_MAX and text.isprintable() and text == text.strip()


def is_id(text: str) -> bool:
    """Tell whether a text can be a task's id."""
    return is_key(text) and "/" not in text and text not in (".", "..")


def is_name(text: str) -> bool:
    """Tell whether a text can name a queue, an executor or a verifier."""
    return is_id(text) and "*" not in text
