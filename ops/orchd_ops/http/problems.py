"""Problems as RFC 9457 documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import msgspec
from starlette.responses import Response

from orchd.ledger.port import LedgerUnavailable
from orchd.operations.errors import (
    Conflict,
    Fault,
    Invalid,
    KeyConflict,
    NotFound,
    NotJSON,
    OperationError,
    Overloaded,
    TooLarge,
)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 1

STATUS_OF: dict[type[OperationError], int] = {
    NotFound: 404,
    Conflict: 409,
    KeyConflict: 422,
    Invalid: 422,
    NotJSON: 400,
    TooLarge: 413,
    Overloaded: 429,
}


class ProblemDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request failed (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    """A short name for programs."""
    errors: list[Fault]
    """The single broken rules, when there are any."""


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    instance: str = "",
    errors: Sequence[Fault] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a problem as a response; 429 and 503 get their `Retry-After`."""
    document = ProblemDocument(
        type="about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=instance,
        code=code,
        errors=list(errors),
    )
    every = dict(headers or {})
    if status in (429, 503):
        every.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
    body = msgspec.json.encode(document, enc_hook=repr)
    return Response(body, status, every, media_type=MEDIA_TYPE)


def problem_of(error: Exception, instance: str) -> Response:
    """Return the problem that an exception of the operations stands for."""
    if isinstance(error, LedgerUnavailable):
        detail = f"the database does not answer ({error}); try again"
        return problem(503, "unavailable", detail, instance=instance)
    if isinstance(error, OperationError):
        status = STATUS_OF.get(type(error), 422)
        headers = {"Connection": "close"} if isinstance(error, TooLarge) else None
        return problem(
            status,
            error.code,
            error.detail,
            instance=instance,
            errors=error.faults,
            headers=headers,
        )
    raise TypeError(f"{type(error).__name__} is no problem") from error
