"""Spans of time and sizes as people write them: `250ms`, `5m`, `PT1H30M`, `32MiB`."""

from __future__ import annotations

import re

DURATION_RULE = (
    "must be a duration such as 250ms, 30s, 5m, 2h, 3d or PT1H30M, of at most 36525d"
)
SIZE_RULE = "must be a size such as 512KiB, 32MiB or 1GiB"

DURATION_SECONDS_MAX = 36_525 * 86_400.0
"""A hundred years; anything longer is a mistake."""

_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_UNIT_BYTES = {
    "": 1,
    "B": 1,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
}

_SHORT = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_ISO = re.compile(
    r"P(?:(?P<weeks>\d+(?:\.\d+)?)W)?(?:(?P<days>\d+(?:\.\d+)?)D)?"
    r"(?:T(?:(?P<hours>\d+(?:\.\d+)?)H)?(?:(?P<minutes>\d+(?:\.\d+)?)M)?"
    r"(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?",
    re.ASCII,
)
_ISO_SECONDS = {
    "weeks": 604_800.0,
    "days": 86_400.0,
    "hours": 3_600.0,
    "minutes": 60.0,
    "seconds": 1.0,
}
_SIZE = re.compile(r"(\d+)\s?([KMG]i?B|B|)", re.ASCII)


def parse_duration(text: str) -> float:
    """Return the seconds that a duration stands for.

    Raises:
        ValueError: it is no duration, or longer than a hundred years.
    """
    seconds = _short_seconds(text) if text[:1] != "P" else _iso_seconds(text)
    if seconds is None or seconds > DURATION_SECONDS_MAX:
        raise ValueError(DURATION_RULE)
    return seconds


def _short_seconds(text: str) -> float | None:
    match = _SHORT.fullmatch(text.strip())
    return None if match is None else float(match[1]) * _UNIT_SECONDS[match[2]]


def _iso_seconds(text: str) -> float | None:
    match = _ISO.fullmatch(text)
    if match is None or text.endswith("T"):
        return None
    parts = {name: found for name, found in match.groupdict().items() if found}
    if not parts:
        return None
    return sum(float(found) * _ISO_SECONDS[name] for name, found in parts.items())


def format_duration(seconds: float) -> str:
    """Return the shortest form that `parse_duration` reads back as the same span."""
    for unit in ("d", "h", "m", "s"):
        count = seconds / _UNIT_SECONDS[unit]
        if count >= 1 and count == int(count):
            return f"{int(count)}{unit}"
    if seconds >= 1 or seconds == 0:
        return f"{_decimal(seconds)}s"
    return f"{_decimal(seconds * 1_000)}ms"


def _decimal(number: float) -> str:
    """Return a number to six decimals and without an exponent, which nobody reads."""
    return f"{number:.6f}".rstrip("0").rstrip(".")


def parse_size(text: str) -> int:
    """Return the bytes that a size stands for.

    Raises:
        ValueError: it is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(SIZE_RULE)
    return int(match[1]) * _UNIT_BYTES[match[2]]


def format_size(size_bytes: int) -> str:
    """Return the largest binary unit that holds the size without a remainder."""
    for unit in ("GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % _UNIT_BYTES[unit] == 0:
            return f"{size_bytes // _UNIT_BYTES[unit]}{unit}"
    return f"{size_bytes}B"
