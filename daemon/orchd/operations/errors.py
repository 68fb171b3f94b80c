"""Why an operation was not carried out. Each error says it to people and to programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One broken rule of a request."""

    field: str
    """Where: the name of a field, with `[n]` for the n-th of an array (from 0)."""
    rule: str
    """What must hold there."""
    value: Any = None
    """What was given; long values are cut."""


class OperationError(Exception):
    """The base of the errors below.

    Attributes:
        code: a short name for programs.
        faults: the single broken rules, when there are any.
    """

    code = "error"

    def __init__(self, detail: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.faults = tuple(faults)


class NotFound(OperationError):
    """There is no such thing."""

    code = "not_found"


class Conflict(OperationError):
    """The thing is not in a state in which this can be done."""

    code = "conflict"


class KeyConflict(OperationError):
    """The idempotency key was used for another task."""

    code = "key_conflict"


class Invalid(OperationError):
    """What was handed in breaks a rule."""

    code = "invalid"


class NotJSON(OperationError):
    """What was handed in is no JSON text at all."""

    code = "not_json"


class TooLarge(OperationError):
    """What was handed in is larger than is taken."""

    code = "too_large"


class Overloaded(OperationError):
    """Too many ask for the same at once; try again in a moment."""

    code = "overloaded"


def invalid(faults: Sequence[Fault]) -> Invalid:
    """Return the error for faults; its text names the first of them."""
    first = faults[0]
    detail = f"{first.field}: {first.rule}" if first.field else first.rule
    more = len(faults) - 1
    return Invalid(detail + (f" (and {more} more)" if more else ""), faults)
