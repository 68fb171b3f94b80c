"""The HTTP API inside this process, over a state that no daemon has open."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar
from urllib.parse import unquote

from orchd.config.settings import Settings
from orchd.ledger.opening import open_ledger
from orchd.operations import DirectCommitter, Operations
from orchd.system import System
from orchd.transport import ANSWER_SECONDS, Response
from orchd_ops.http.app import build_app
from orchd_ops.http.doors import Doors

Result = TypeVar("Result")
ACTOR = "cli"


class LocalTransport:
    """Carries requests to the app without a server or a socket.

    Args:
        settings: the configuration; its database is opened.
        write: open the state for writing, and make it if there is none.

    Raises:
        StateError: the state cannot be opened.
    """

    def __init__(self, settings: Settings, system: System, *, write: bool) -> None:
        self._ledger = open_ledger(
            settings.database,
            system=system,
            access="write" if write else "read",
            create=write,
            migrate=False,
        )
        self._runner = asyncio.Runner()
        try:
            self._run(self._ledger.open())
        except BaseException:
            self._runner.close()
            raise
        self._operations = Operations(
            ledger=self._ledger,
            commit=DirectCommitter(self._ledger, system),
            settings=settings,
            system=system,
        )
        self._app = build_app(self._operations, doors=Doors.for_socket(), actor=ACTOR)

    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        timeout_seconds: float = ANSWER_SECONDS,
    ) -> Response:
        """See `Transport.request`."""
        exchange = _Exchange(method, path, dict(headers or {}), body or b"")
        self._run(self._exchange(exchange, timeout_seconds))
        return exchange.response()

    async def _exchange(self, exchange: _Exchange, timeout_seconds: float) -> None:
        async with asyncio.timeout(timeout_seconds):
            await exchange.run(self._app)

    def close(self) -> None:
        """See `Transport.close`; here it closes the state too."""
        try:
            self._run(self._operations.close())
            self._run(self._ledger.close())
        finally:
            self._runner.close()

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self._runner.run(work)


class _Exchange:
    """One request and its answer, in the words of ASGI."""

    def __init__(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> None:
        plain, _, query = path.partition("?")
        given = {"host": "localhost", "content-type": "application/json", **headers}
        given["content-length"] = str(len(body))
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(plain),
            "raw_path": plain.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [
                (name.lower().encode("latin-1"), value.encode("latin-1"))
                for name, value in given.items()
            ],
            "client": None,
            "server": ("localhost", 0),
        }
        self._body: bytes | None = body
        self._status = 500
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []

    async def run(self, app: Any) -> None:
        """Let the app answer."""
        await app(self._scope, self._receive, self._send)

    def response(self) -> Response:
        """Return the whole answer."""
        return Response(self._status, self._headers, b"".join(self._parts))

    async def _receive(self) -> dict[str, Any]:
        body, self._body = self._body, None
        if body is None:
            # Nobody hangs up on an exchange within one process.
            await asyncio.Event().wait()
        return {"type": "http.request", "body": body, "more_body": False}

    async def _send(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = {
                name.decode("latin-1").lower(): value.decode("latin-1")
                for name, value in message.get("headers", ())
            }
        else:
            self._parts.append(message.get("body", b""))
