"""The servers that hold the API's doors open, inside the daemon's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from orchd_ops.http.exchange import Exchange
from orchd_ops.http.listening import BACKLOG

HEAD_BYTES_MAX = 64 * 1024
"""Largest request line with headers."""
HEAD_SECONDS = 30.0
"""How long a request's head may take to arrive."""
KEEP_ALIVE_SECONDS = 60
STOP_SECONDS = 5
"""How long requests may take to end when the server stops."""
DATE_SECONDS = 1.0
"""How old the `Date` of an answer may be."""

_CREDENTIALS = struct.Struct("3i")


class GuardedProtocol(HttpToolsProtocol):
    """HTTP/1.1 with limits on what precedes and follows a body.

    Offers to go on in another protocol are ignored, as RFC 9110, 7.8 allows, and so are
    the fields behind a body.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._in_head = True
        self._head_bytes = 0
        self._bytes_since_body = 0
        self._messages = 0
        self._dated_until = 0.0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base class
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        in_head, messages = self._in_head, self._messages
        self._bytes_since_body += len(data)
        self._feed(data)
        if self._bytes_since_body > HEAD_BYTES_MAX + len(data) and not self._in_head:
            # Since the last part of the body nothing but fields that never end.
            self.transport.close()
            return
        if not (in_head and self._in_head and messages == self._messages):
            return
        if self._head_timer is None and not self.transport.is_closing():
            self._await_head()
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
            self.send_400_response("The request's head is too large.")

    def _feed(self, data: bytes) -> None:
        while data and not self.transport.is_closing():
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                if self.parser.get_method() == b"CONNECT":
                    self.send_400_response("This is no proxy.")
                    return
                # The parser takes the body for words of the other protocol already.
                data = self._head_without_offer() + data[offer.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
            except httptools.HttpParserError:
                self.send_400_response("Invalid HTTP request received.")
                return

    def _head_without_offer(self) -> bytes:
        parser = self.parser
        line = b"%s %s HTTP/%s" % (
            parser.get_method(),
            self.url,
            parser.get_http_version().encode(),
        )
        kept = [
            b"%s: %s" % header
            for header in self.headers
            if header[0] not in (b"upgrade", b"connection")
        ]
        words = (value.lower() for name, value in self.headers if name == b"connection")
        if any(b"close" in word for word in words):
            kept.append(b"connection: close")
        return b"\r\n".join((line, *kept, b"", b""))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._bytes_since_body = 0
        super().on_body(body)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._in_head = False
        self._bytes_since_body = 0
        self._head_arrived()
        self._refresh_date()
        self._begin_exchange()

    def _begin_exchange(self) -> None:
        # As in the base class, which offers no other place to choose what an exchange is.
        before, self.cycle = self.cycle, self._exchange()
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _exchange(self) -> Exchange:
        version = self.parser.get_http_version()
        self._fill_scope(version)
        return Exchange(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )

    def _fill_scope(self, version: str) -> None:
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = version
        self.scope["path"] = unquote(path) if "%" in path else path
        self.scope["raw_path"] = url.path
        self.scope["query_string"] = url.query or b""

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._in_head = True
        self._head_bytes = 0
        self._messages += 1

    def _refresh_date(self) -> None:
        # uvicorn does it ten times a second, whether anybody asks or not.
        now = self.loop.time()
        if now >= self._dated_until:
            self._dated_until = now + DATE_SECONDS
            date = (b"date", formatdate(usegmt=True).encode())
            self.server_state.default_headers = [date, *self.config.encoded_headers]

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_too_slow)

    def _head_arrived(self) -> None:
        timer, self._head_timer = self._head_timer, None
        if timer is not None:
            timer.cancel()

    def _head_too_slow(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


class LocalProtocol(GuardedProtocol):
    """The same for a Unix socket: only the daemon's own user, and root, may speak."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base class
        super().connection_made(transport)
        if not peer_allowed(peer_user(transport.get_extra_info("socket"))):
            transport.write(_STRANGER)
            transport.close()

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)


_STRANGER_BODY = (
    b'{"type":"about:blank","title":"Forbidden","status":403,'
    b'"detail":"this socket belongs to another user","instance":"",'
    b'"code":"wrong_user","errors":[]}'
)
_STRANGER = (
    b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/problem+json\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%s"
) % (len(_STRANGER_BODY), _STRANGER_BODY)


def peer_user(connection: Any) -> int | None:
    """Return the user id of a Unix socket's other end; None when the kernel is silent."""
    size = _CREDENTIALS.size
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    except OSError:
        return None
    _, user, _ = _CREDENTIALS.unpack(packed)
    return int(user)


def peer_allowed(user: int | None) -> bool:
    """Tell whether a user may speak to this process's socket."""
    return user is not None and user in (0, os.geteuid())


class _Embedded(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """End the main loop."""
        self.should_exit = True
        self._leaving.set()

    async def main_loop(self) -> None:
        # uvicorn's own wakes up ten times a second to look whether it is to exit, which is
        # most of what an idle daemon would do.
        await self._leaving.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The daemon owns the signals.
        yield


class HTTPServer:
    """Serves an app on a listening socket until it is stopped.

    Args:
        app: the ASGI application.
        listener: a bound TCP or Unix socket; it is closed with the server.
    """

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        local = listener.family == socket.AF_UNIX
        config = uvicorn.Config(
            app,
            http=LocalProtocol if local else GuardedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        self.listener = listener
        self._server = _Embedded(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The TCP port that is listened on."""
        return int(self.listener.getsockname()[1])

    async def start(self) -> None:
        """Return once connections are accepted."""
        serving = self._server.serve(sockets=[self.listener])
        self._task = asyncio.create_task(serving, name="orchd-http")
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise RuntimeError("the HTTP server ended before it began")
            # uvicorn offers nothing to wait for; this takes two or three turns.
            await asyncio.wait((self._task,), timeout=0.005)

    async def stop(self) -> None:
        """Accept nothing more and return when every request has ended; idempotent.

        Close the app's `Operations` first, so that streams and waiters end at once.
        """
        task, self._task = self._task, None
        if task is None:
            return
        self._server.leave()
        await task
        self.listener.close()
