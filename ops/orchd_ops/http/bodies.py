"""Reading a request's body: JSON, not too long, not too slow."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from orchd.operations.errors import OperationError, TooLarge
from orchd.operations.json_text import read_json
from orchd_ops.http.fields import Fields

BODY_BYTES_MAX = 16 * 1024 * 1024
"""Largest body of a request."""
DISCARDED_BYTES_MAX = 32 * 1024 * 1024
"""How much of a too large body is read and dropped, so that its sender, who may not
read before everything is sent, gets to see the answer."""
PIECE_SECONDS = 30.0
"""How long a sender may be silent within a body."""


class NotJSONType(OperationError):
    """The body is declared to be something else than JSON."""

    code = "unsupported_media_type"


class TooSlow(OperationError):
    """The body did not arrive in time."""

    code = "timeout"


async def read_body(fields: Fields, receive: Receive) -> Any:
    """Return the parsed body, or None when there is none.

    Raises:
        NotJSONType, TooLarge, TooSlow: as their names say.
        NotJSON, Invalid: as in `read_json`.
        ClientDisconnect: nobody waits for an answer any more.
    """
    declared = fields.get(b"content-length")
    if declared.isdigit() and len(declared) > 18:
        raise _too_large()
    if declared.isdigit() and int(declared) > BODY_BYTES_MAX:
        if b"expect" not in fields:
            await _discard(receive, 0)
        raise _too_large()
    body = await _collect(receive)
    if not body:
        return None
    _check_type(fields)
    return read_json(body)


def _check_type(fields: Fields) -> None:
    kind, _, options = fields.get(b"content-type").partition(";")
    kind = kind.strip().lower()
    if kind != "application/json" and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        raise NotJSONType("send the body as Content-Type: application/json")
    if fields.get(b"content-encoding", "identity").strip().lower() != "identity":
        raise NotJSONType("send the body without a Content-Encoding")
    charset = options.replace(" ", "").replace('"', "").lower()
    if "charset=" in charset and "charset=utf-8" not in charset:
        raise NotJSONType("send the body in UTF-8")


async def _collect(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        piece, more = await _next(receive)
        body += piece
        if len(body) > BODY_BYTES_MAX:
            size = len(body)
            del body
            if more:
                await _discard(receive, size)
            raise _too_large()
        if not more:
            return bytes(body)


async def _discard(receive: Receive, size: int) -> None:
    more = True
    while more and size <= DISCARDED_BYTES_MAX:
        piece, more = await _next(receive)
        size += len(piece)


async def _next(receive: Receive) -> tuple[bytes, bool]:
    try:
        async with asyncio.timeout(PIECE_SECONDS):
            message = await receive()
    except TimeoutError:
        raise TooSlow("the body did not arrive in time") from None
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


def _too_large() -> TooLarge:
    return TooLarge(f"a body may have {BODY_BYTES_MAX} bytes, not more")
