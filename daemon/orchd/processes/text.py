"""Turns the bytes of a program into text that can be stored, within bounds."""

from __future__ import annotations

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_MARK_BYTES_MAX = 64


def bounded_text(data: bytes, total_bytes: int, bytes_max: int) -> str:
    """Return `data` as text of at most `bytes_max` bytes of UTF-8.

    Args:
        data: the first bytes of what the program wrote.
        total_bytes: how many it wrote in all.
        bytes_max: the bound, the mark of a cut included.

    Bytes that are no UTF-8, and NUL, become U+FFFD. A cut is marked at the end with how
    much was left out.
    """
    text = data.decode("utf-8", "replace").replace("\0", REPLACEMENT)
    return _cut(text, total_bytes - len(data), bytes_max)


def storable_text(text: str, bytes_max: int) -> str:
    """Return `text` without NUL and lone surrogates, of at most `bytes_max` bytes."""
    if text.isascii() and "\0" not in text and len(text) <= bytes_max:
        return text
    clean = text.replace("\0", REPLACEMENT).encode("utf-8", "surrogatepass")
    return _cut(clean.decode("utf-8", "replace"), 0, bytes_max)


def last_lines(data: bytes, bytes_max: int, lines_max: int) -> str:
    """Return the last lines of a program's messages, stripped, as storable text."""
    text = data[-bytes_max:].decode("utf-8", "replace").replace("\0", REPLACEMENT)
    return "\n".join(text.strip().splitlines()[-lines_max:])


def _cut(text: str, missing_bytes: int, bytes_max: int) -> str:
    encoded = text.encode("utf-8")
    if missing_bytes <= 0 and len(encoded) <= bytes_max:
        return text
    room = max(0, bytes_max - _MARK_BYTES_MAX)
    # "ignore" drops only the character that the cut went through: the rest is clean.
    kept = encoded[:room].decode("utf-8", "ignore")
    left_out = max(0, len(encoded) - room) + missing_bytes
    return f"{kept}\n[orchd: {left_out} bytes more were cut]"
