"""The kinds of value that a key can hold, and how each is read.

A value comes typed from a TOML file, or as text from a variable or an option. A reader
returns what the settings hold and raises `ValueError` when the rule is broken.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from orchd.config.durations import DURATION_RULE, SIZE_RULE, parse_duration, parse_size
from orchd.ledger.urls import URL_RULE, canonical_url

Reader = Callable[[object], object]

_TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_LISTEN = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]/\s]+):(\d{1,5})", re.ASCII)
_PORT_MAX = 65_535


class Kind(NamedTuple):
    """A kind of value: its rule as a phrase, its reader, and how text becomes typed."""

    rule: str
    read: Reader
    from_text: Callable[[str], object] = str


def _broken() -> ValueError:
    return ValueError("the rule is broken")


def _read_text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise _broken()
    return value


def _read_filled_text(value: object) -> str:
    if not (text := _read_text(value)).strip():
        raise _broken()
    return text


def _read_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _broken()
    return value


def _read_texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise _broken()
    return tuple(_read_text(item) for item in value)


def _read_filled_texts(value: object) -> tuple[str, ...]:
    texts = _read_texts(value)
    if not texts or not texts[0]:
        raise _broken()
    return texts


def _read_table(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise _broken()
    return {_read_filled_text(name): _read_text(item) for name, item in value.items()}


def _read_anything(value: object) -> object:
    return value


def _read_listen(value: object) -> str:
    match = _LISTEN.fullmatch(_read_text(value))
    if match is None or int(match[2]) > _PORT_MAX:
        raise _broken()
    return match[0]


def _read_database(value: object) -> str:
    text = _read_text(value)
    canonical_url(text)
    return text


def _read_pattern(value: object) -> str:
    text = _read_text(value)
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        raise _broken() from None
    return text


def _read_schema(value: object) -> str:
    """A JSON Schema, as JSON text or as the table that the file spells out."""
    schema = json.loads(value) if isinstance(value, str) else value
    if not isinstance(schema, Mapping | bool):
        raise _broken()
    return json.dumps(schema, ensure_ascii=False)


def _flag_from_text(text: str) -> object:
    return _TRUTHS.get(text.strip().lower(), text)


def _number_from_text(text: str) -> object:
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def _list_from_text(text: str) -> object:
    """A JSON array, or words separated by commas."""
    if text.lstrip().startswith("["):
        return _json_from_text(text)
    return [word.strip() for word in text.split(",") if word.strip()]


def _json_from_text(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def integer(minimum: int, maximum: int) -> Kind:
    """Return the kind of whole numbers within these bounds, both included."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _broken()
        if not minimum <= value <= maximum:
            raise _broken()
        return value

    rule = f"must be a whole number from {minimum} to {maximum}"
    return Kind(rule, read, _number_from_text)


def number(minimum: float, maximum: float) -> Kind:
    """Return the kind of numbers within these bounds, both included."""

    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _broken()
        if math.isnan(value) or not minimum <= value <= maximum:
            raise _broken()
        return float(value)

    rule = f"must be a number from {minimum:g} to {maximum:g}"
    return Kind(rule, read, _number_from_text)


def duration(minimum: str = "0s") -> Kind:
    """Return the kind of spans of time that last at least `minimum`."""
    least_seconds = parse_duration(minimum)

    def read(value: object) -> float:
        seconds = parse_duration(_read_text(value))
        if seconds < least_seconds:
            raise _broken()
        return seconds

    at_least = f", {minimum} or longer" if least_seconds else ""
    return Kind(DURATION_RULE + at_least, read)


def choice(*names: str) -> Kind:
    """Return the kind of texts that are one of `names`."""

    def read(value: object) -> str:
        if value not in names:
            raise _broken()
        return str(value)

    return Kind("must be one of " + ", ".join(names), read)


def _size_reader(value: object) -> int:
    size_bytes = parse_size(_read_text(value))
    if not 1024 <= size_bytes <= 1024**3:
        raise _broken()
    return size_bytes


SIZE = Kind(f"{SIZE_RULE}, from 1KiB to 1GiB", _size_reader)
TEXT = Kind("must be text", _read_text)
NAME = Kind("must be text that is not empty", _read_filled_text)
TEXTS = Kind("must be a list of texts", _read_texts, _list_from_text)
ARGV = Kind(
    "must be a list of texts, the program first", _read_filled_texts, _list_from_text
)
FLAG = Kind("must be true or false", _read_flag, _flag_from_text)
TABLE = Kind("must be a table of texts", _read_table, _json_from_text)
ANYTHING = Kind("may be anything", _read_anything, _json_from_text)
LISTEN = Kind("must be HOST:PORT, with [ADDRESS]:PORT for IPv6", _read_listen)
DATABASE = Kind(URL_RULE, _read_database)
PATTERN = Kind("must be a regular expression of Python", _read_pattern)
SCHEMA = Kind("must be a JSON Schema, as JSON text or as a table", _read_schema)
