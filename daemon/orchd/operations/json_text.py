"""JSON from strangers: what is taken, and its one canonical text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from json.encoder import encode_basestring as quote
from typing import Any, TypeVar

import msgspec

from orchd.operations.errors import Fault, Invalid, NotJSON, invalid

DEPTH_MAX = 64
"""How deep arrays and objects may be nested."""
VALUE_CHARACTERS_MAX = 200
"""How much of an offending value an error repeats."""

JSONObject = dict[str, Any]
Made = TypeVar("Made")

_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
).encode


def read_json(body: bytes) -> Any:
    """Parse a body: UTF-8, numbers finite.

    Raises:
        NotJSON: it is no JSON text.
        Invalid: it is JSON that nobody can store: not UTF-8, a number that is not
            finite, or nested beyond all measure.
    """
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # What it takes it reads as the standard library does, in a third of the time;
        # what is wrong with the rest the standard library knows how to say.
        return _read_slowly(body)


def _read_slowly(body: bytes) -> Any:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        rule = f"must be UTF-8 text ({error.reason} at byte {error.start})"
        raise _invalid(rule) from None
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise NotJSON(f"the body is no JSON: {error.msg} at {where}") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        # Python refuses to read integers of several thousand digits.
        raise _invalid(f"must hold only numbers that can be read ({error})") from None


def canonical_json(value: Any) -> str:
    """Return the text of a value: sorted keys, no white space, everything but ASCII kept.

    Raises:
        Invalid: the value holds what no database can store: NUL, a lone surrogate, a
            number that is not finite, or deeper nesting than `DEPTH_MAX`.
    """
    text = _made(lambda: _CANONICAL(value))
    _encoded(text)
    _check(value, text)
    return text


def canonical_object(fields: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
    """Return the canonical text of an object in UTF-8, and that of each of its fields.

    Raises:
        Invalid: as in `canonical_json`.
    """
    texts = _made(lambda: {name: _text(fields[name]) for name in sorted(fields)})
    text = ",".join([f"{quote(name)}:{value}" for name, value in texts.items()])
    text = f"{{{text}}}"
    data = _encoded(text)
    _check(fields, text)
    return data, texts


def shorten(value: Any) -> Any:
    """Return a value that an error message can repeat."""
    if value is None or isinstance(value, bool | int | float):
        finite = not isinstance(value, float) or math.isfinite(value)
        small = not isinstance(value, int) or abs(value) < 2**63
        return value if finite and small else "a number out of range"
    text = value if isinstance(value, str) else json.dumps(value, default=repr)
    text = text.encode("utf-8", "replace").decode()
    if len(text) > VALUE_CHARACTERS_MAX:
        text = text[:VALUE_CHARACTERS_MAX] + "…"
    return text


def _text(value: Any) -> str:
    # Most fields are texts, and the way through an encoder is long for them.
    return quote(value) if isinstance(value, str) else _CANONICAL(value)


def _made(make: Callable[[], Made]) -> Made:
    try:
        return make()
    except RecursionError:
        raise _too_deep() from None
    except (TypeError, ValueError) as error:
        raise _invalid(f"must be JSON ({error})") from None


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise _invalid("must not hold a lone surrogate") from None


def _check(value: Any, text: str) -> None:
    # Most bodies hold neither many brackets nor an escaped NUL; only the others are
    # walked through.
    if text.count("[") + text.count("{") > DEPTH_MAX and _depth(value) > DEPTH_MAX:
        raise _too_deep()
    if "\\u0000" in text and _holds_nul(value):
        raise _invalid("must not hold the character NUL")


def _depth(value: Any) -> int:
    deepest = 0
    ahead = [(value, 1)]
    while ahead:
        found, depth = ahead.pop()
        if isinstance(found, dict | list):
            deepest = max(deepest, depth)
            inside = found.values() if isinstance(found, dict) else found
            ahead.extend((item, depth + 1) for item in inside)
    return deepest


def _holds_nul(value: Any) -> bool:
    ahead = [value]
    while ahead:
        found = ahead.pop()
        if isinstance(found, str) and "\0" in found:
            return True
        if isinstance(found, dict):
            ahead.extend(found)
            ahead.extend(found.values())
        elif isinstance(found, list):
            ahead.extend(found)
    return False


def _refuse_constant(name: str) -> Any:
    raise _invalid(f"must hold only finite numbers ({name})")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _invalid("must hold only numbers within the range of a double")
    return number


def _too_deep() -> Invalid:
    return _invalid(f"must not be nested deeper than {DEPTH_MAX}")


def _invalid(rule: str) -> Invalid:
    return invalid([Fault(field="", rule=rule)])
