"""Keeps secrets out of what is shown: in `config show`, in messages, in logs."""

from __future__ import annotations

import re
from collections.abc import Mapping

from orchd.ledger.urls import masked_url

MASK = "***"

_SECRET_NAME = re.compile(
    r"secret|token|password|passwd|credential|authorization|api[_-]?key|private[_-]?key",
    re.IGNORECASE,
)
_PLACE_NAMES = ("_file", "max_tokens")
"""Keys that say where a secret is, or that only look like one."""


def masked(dotted: str, value: object) -> object:
    """Return the value of a key as it may be shown."""
    name = dotted.rpartition(".")[2]
    if name.endswith(_PLACE_NAMES):
        return value
    if isinstance(value, Mapping):
        # Whoever sets a variable or a header usually has a secret to hand over.
        hide = name in ("env", "headers")
        return {
            str(key): MASK if hide else masked(f"{dotted}.{key}", item)
            for key, item in value.items()
        }
    if _SECRET_NAME.search(name) or ".env." in dotted or ".headers." in dotted:
        return MASK
    if isinstance(value, str) and "://" in value:
        return masked_url(value)
    return value
