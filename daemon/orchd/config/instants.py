"""Instants as people write them: RFC 3339, or relative to now."""

from __future__ import annotations

import functools
import re
from datetime import UTC, datetime, timedelta

from orchd.config.durations import parse_duration

INSTANT_RULE = (
    "must be a time such as 2026-11-24T09:30:00Z (with its offset from UTC), "
    "or relative to now such as +5m or -2h, by at most 36525d"
)

_RFC3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIRST = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LAST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_MICROSECONDS_PER_SECOND = 1_000_000


def parse_instant(text: str, now: int) -> int:
    """Return the instant, in microseconds, that a text names; `now` likewise.

    Raises:
        ValueError: it is none, or before 1970.
    """
    text = text.strip()
    if text == "now":
        return now
    if text[:1] in ("+", "-") and len(text) > 1:
        return now + _relative_microseconds(text)
    return parse_rfc3339(text)


def parse_past(text: str, now: int) -> int:
    """Like `parse_instant`, but a plain duration means that long ago."""
    try:
        return now - round(parse_duration(text.strip()) * _MICROSECONDS_PER_SECOND)
    except ValueError:
        return parse_instant(text, now)


def _relative_microseconds(text: str) -> int:
    try:
        seconds = parse_duration(text[1:])
    except ValueError:
        raise ValueError(INSTANT_RULE) from None
    microseconds = round(seconds * _MICROSECONDS_PER_SECOND)
    return microseconds if text[0] == "+" else -microseconds


def parse_rfc3339(text: str) -> int:
    """Return the instant in microseconds; digits beyond them are cut off.

    Raises:
        ValueError: it is not RFC 3339 with an offset, or before 1970.
    """
    if _RFC3339.fullmatch(text) is None:
        raise ValueError(INSTANT_RULE)
    try:
        moment = datetime.fromisoformat(text.upper().replace(" ", "T"))
        instant = (moment - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError):
        raise ValueError(INSTANT_RULE) from None
    if instant < 0:
        raise ValueError(INSTANT_RULE)
    return instant


def format_instant(instant: int) -> str:
    """Return an instant as RFC 3339 in UTC, without trailing zeros.

    RFC 3339 knows the years 1 to 9999; what lies beyond is given as their end.
    """
    second, rest = divmod(max(_FIRST, min(instant, _LAST)), _MICROSECONDS_PER_SECOND)
    fraction = f".{rest:06d}".rstrip("0").rstrip(".")
    return f"{_format_second(second)}{fraction}Z"


# What is shown together tends to have happened together.
@functools.lru_cache(maxsize=1024)
def _format_second(second: int) -> str:
    moment = _EPOCH + timedelta(seconds=second)
    return f"{moment.year:04}-{moment:%m-%dT%H:%M:%S}"
