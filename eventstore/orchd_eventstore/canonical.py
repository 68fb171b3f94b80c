"""Canonical JSON text: one spelling for each value, so that a hash can cover it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def canonical_json(value: Any) -> str:
    """Return `value` as JSON with sorted keys, no white space and UTF-8 kept as it is.

    Integers of any size survive. The text contains no NUL and no surrogate: a NUL within
    a string is escaped, as JSON demands.

    Raises:
        ValueError: NaN, an infinity, a text with a lone surrogate, or too deep nesting.
        TypeError: a value that JSON cannot say, or a key that is no text.
    """
    _require_text_keys(value)
    try:
        text = json.dumps(
            value,
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
        )
    except RecursionError as error:
        raise ValueError("a value is nested too deep") from error
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a text holds a lone surrogate: {error.reason}") from error
    return text


def _require_text_keys(value: Any) -> None:
    # json.dumps would quietly turn the key 1 into "1".
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, Mapping):
            for key in item:
                if not isinstance(key, str):
                    raise TypeError(f"a key must be a text, got {key!r}")
            stack.extend(item.values())
        elif isinstance(item, list | tuple):
            stack.extend(item)
