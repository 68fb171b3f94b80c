"""What is answered when nothing went wrong."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

_JSON = (b"content-type", b"application/json")


class JSONAnswer:
    """A value as JSON, as an ASGI application."""

    def __init__(self, value: Any, status: int = 200) -> None:
        self._body = msgspec.json.encode(value)
        self._status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"%d" % len(self._body)), _JSON]
        status = self._status
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": self._body})
