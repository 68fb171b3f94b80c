"""How a request reaches the HTTP API: over TCP, over a local socket, or any other way.

Only the standard library's HTTP client is used, so that the command line starts fast.
"""

from __future__ import annotations

import http.client
import select
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast
from urllib.parse import urlsplit

from orchd.http_answer import HTTPAnswer

CONNECT_SECONDS = 5.0
"""How long a connection may take to be made."""
ANSWER_SECONDS = 60.0
"""How long an answer may take when the caller does not say otherwise."""


class Response(NamedTuple):
    """An answer; the names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Unreachable(OSError):
    """Nobody answered.

    Attributes:
        sent: whether the request may have been carried out nevertheless.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class InvalidToken(ValueError):
    """A token that no header can carry; the message does not hold it."""


def checked_token(token: str) -> str:
    """Return a token without the space around it; raises `InvalidToken`."""
    stripped = token.strip()
    if not stripped.isascii() or not stripped.isprintable():
        raise InvalidToken("the token must be one line of printable ASCII characters")
    return stripped


def _is_readable(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


class Transport(Protocol):
    """Carries one request at a time to whoever implements the HTTP API."""

    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        timeout_seconds: float = ANSWER_SECONDS,
    ) -> Response:
        """Send a request and return its answer, whatever its status.

        Args:
            method: `GET`, `POST`, …
            path: percent-encoded, with its query.
            headers: those of this request, besides what the transport adds itself.
            body: JSON text in UTF-8, or None.
            timeout_seconds: how long to wait for the answer.

        Raises:
            Unreachable: nobody answered.
        """
        ...

    def close(self) -> None:
        """Let go of the connection; idempotent. A later request connects again."""
        ...


class _Connection(http.client.HTTPConnection):
    """Sends a request in one piece.

    Head and body apart are two segments, and a server that wakes up twice.
    """

    response_class = HTTPAnswer
    _pieces: list[bytes]

    def request(self, *args: Any, **options: Any) -> None:
        self._pieces = []
        super().request(*args, **options)
        super().send(b"".join(self._pieces))

    def send(self, data: Any) -> None:
        self._pieces.append(data)


class _SecureConnection(_Connection, http.client.HTTPSConnection):
    """The same over TLS."""


class _SocketConnection(_Connection):
    """The same over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=CONNECT_SECONDS)
        self._path = path

    def connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(self.timeout)
        try:
            connection.connect(self._path)
        except BaseException:
            connection.close()
            raise
        self.sock = connection


class SocketTransport:
    """A persistent connection to a URL (`http://HOST:PORT`) or to a socket's path.

    Not for use by several threads at once.

    Raises:
        InvalidToken: the token cannot be sent.
        ValueError: the address is none.
    """

    def __init__(self, address: str | Path, token: str | None = None) -> None:
        self.address = str(address)
        self._token = None if token is None else checked_token(token)
        self._prefix = ""
        self._connection = self._make_connection()

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
        fresh = self._connection.sock is None
        try:
            return self._attempt(method, path, headers, body, timeout_seconds)
        except Unreachable as error:
            # A kept connection may have been closed by the other side meanwhile; such a
            # request was not carried out, and a new connection tells whether anybody is
            # there. A request that may have been carried out is the caller's to repeat.
            if fresh or error.sent:
                raise
        return self._attempt(method, path, headers, body, timeout_seconds)

    def close(self) -> None:
        """See `Transport.close`."""
        self._connection.close()

    def _attempt(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None,
        body: bytes | None,
        timeout_seconds: float,
    ) -> Response:
        self._connect()
        assert self._connection.sock is not None
        self._connection.sock.settimeout(timeout_seconds)
        try:
            self._connection.request(
                method, self._prefix + path, body, self._all_headers(headers, body)
            )
            answer = cast(HTTPAnswer, self._connection.getresponse())
            content = answer.read()
        except http.client.RemoteDisconnected as error:
            self.close()
            raise self._unreachable(error, sent=method not in ("GET", "HEAD")) from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._unreachable(error, sent=True) from error
        return Response(answer.status, dict(answer.fields), content)

    def _connect(self) -> None:
        if self._connection.sock is not None:
            if not _is_readable(self._connection.sock):
                return
            # Nothing is owed on an idle connection: the other side has closed it. Asked
            # before anything is sent, so that no request is lost to it in doubt.
            self.close()
        self._connection.timeout = CONNECT_SECONDS
        try:
            self._connection.connect()
        except OSError as error:
            self.close()
            raise self._unreachable(error, sent=False) from error

    def _all_headers(
        self, headers: Mapping[str, str] | None, body: bytes | None
    ) -> dict[str, str]:
        everything = {"Accept": "application/json"}
        if body is not None:
            everything["Content-Type"] = "application/json"
        if self._token is not None:
            everything["Authorization"] = f"Bearer {self._token}"
        return everything | dict(headers or {})

    def _unreachable(self, error: Exception, *, sent: bool) -> Unreachable:
        reason = str(error) or type(error).__name__
        return Unreachable(f"no answer from {self.address}: {reason}", sent=sent)

    def _make_connection(self) -> http.client.HTTPConnection:
        if "://" not in self.address:
            return _SocketConnection(self.address)
        parts = urlsplit(self.address)
        if parts.scheme == "unix":
            return _SocketConnection(parts.path)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"{self.address!r} is no address: use http://HOST:PORT, https://… "
                "or the path of a socket"
            )
        self._prefix = parts.path.rstrip("/")
        secure = parts.scheme == "https"
        kind = _SecureConnection if secure else _Connection
        return kind(parts.hostname, parts.port, timeout=CONNECT_SECONDS)
