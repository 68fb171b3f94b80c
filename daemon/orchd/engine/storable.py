"""Makes text storable: what an executor returns is never a reason to fail a commit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
ERROR_BYTES_MAX = 8 * 1024
FEEDBACK_BYTES_MAX = 32 * 1024
METADATA_BYTES_MAX = 64 * 1024
_ENCODER = msgspec.json.Encoder(order="sorted", enc_hook=repr)


def storable(text: str, bytes_max: int) -> str:
    """Return `text` with what no database stores replaced, cut to `bytes_max` of UTF-8.

    NUL and lone surrogates become U+FFFD. A cut is marked at the end with how much was
    left out; the mark comes on top of `bytes_max`.
    """
    if text.isascii() and "\0" not in text and len(text) <= bytes_max:
        return text
    encoded = text.replace("\0", REPLACEMENT).encode("utf-8", "surrogatepass")
    left_out = len(encoded) - bytes_max
    if left_out <= 0:
        return encoded.decode("utf-8", "replace")
    kept = encoded[:bytes_max].decode("utf-8", "replace").rstrip(REPLACEMENT)
    return f"{kept}\n[orchd: {left_out} bytes more were cut]"


def storable_object(value: Mapping[str, Any]) -> msgspec.Raw | None:
    """Return a mapping as JSON; what JSON cannot say is stored as its repr.

    A mapping that is too large or cannot be encoded at all is replaced by a note: it
    informs people and must not stand in the way of the result.
    """
    if not value:
        return None
    try:
        encoded = _ENCODER.encode(_plain(value))
    except Exception as error:
        return _note(f"metadata could not be stored: {error!r}")
    if len(encoded) > METADATA_BYTES_MAX:
        return _note(f"metadata of {len(encoded)} bytes were left out")
    return msgspec.Raw(encoded)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return storable(value, METADATA_BYTES_MAX)
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _note(text: str) -> msgspec.Raw:
    return msgspec.Raw(_ENCODER.encode({"orchd": storable(text, ERROR_BYTES_MAX)}))
