"""What a daemon serves to those who come in by its doors.

A module of its own, imported when the first tasks are at work: the web framework takes as
long to import as the engine.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

from orchd.operations import Operations
from orchd_ops.http.app import Health, build_app
from orchd_ops.http.doors import Doors
from orchd_ops.http.server import HTTPServer


class Entrance:
    """Makes the servers of one daemon.

    Args:
        operations, metrics, health: see `build_app`.
    """

    def __init__(
        self,
        operations: Operations,
        *,
        metrics: Callable[[str], Awaitable[tuple[str, bytes]]],
        health: Health,
    ) -> None:
        self._operations = operations
        self._metrics = metrics
        self._health = health

    def outside(
        self, listener: socket.socket, *, host: str, token: str, allowed: tuple[str, ...]
    ) -> HTTPServer:
        """Return the server for a TCP socket: who enters shows the token."""
        return self._server(Doors.for_listener(host, token, allowed), listener)

    def local(self, listener: socket.socket) -> HTTPServer:
        """Return the server for the local socket."""
        return self._server(Doors.for_socket(), listener)

    def _server(self, who: Doors, listener: socket.socket) -> HTTPServer:
        app = build_app(
            self._operations, doors=who, metrics=self._metrics, health=self._health
        )
        return HTTPServer(app, listener)
