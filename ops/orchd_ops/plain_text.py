"""Text from strangers on one line, unable to do anything to a terminal or a log."""

from __future__ import annotations

import unicodedata

_CONTROL = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that could move the cursor, reorder text or break a line."""
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def clean(text: str) -> str:
    """Return the text with every control character spelled out."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_clean_character, text))


def _clean_character(character: str) -> str:
    if unicodedata.category(character) not in _CONTROL:
        return character
    return _SHORT.get(character, f"\\u{ord(character):04x}")
