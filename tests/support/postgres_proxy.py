"""A proxy between a client and PostgreSQL that counts, holds and cuts.

It reads the client's messages one by one (type, length, body; see "Message Formats" in
PostgreSQL's manual) and passes the server's bytes on as they are.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

LENGTH_BYTES = 4
# A client waits for the server after each of these: Sync and a simple Query.
ROUND_TRIP_TYPES = (b"S", b"Q")
NO_ENCRYPTION = "sslmode=disable&gssencmode=disable"


class PostgresProxy:
    """Listens on a port of its own; each connection has a pair of threads.

    `round_trips` counts how often clients waited for the server. `hold(text)` stops the
    next message that contains `text`, until `release`; `held` is set meanwhile.
    `cut_after(text)` passes the messages up to the next Sync on, from the one that contains
    `text`, and then closes the client's side at once.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.round_trips = 0
        self.held = threading.Event()
        self._released = threading.Event()
        self._hold_text: bytes | None = None
        self._cut_text: bytes | None = None
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def url(self, url: str) -> str:
        """Return a TCP URL such that the proxy can read along."""
        return f"{url}{'&' if '?' in url else '?'}{NO_ENCRYPTION}"

    def hold(self, text: bytes) -> None:
        """Stop the next message that contains `text`."""
        self.held.clear()
        self._released.clear()
        self._hold_text = text

    def release(self) -> None:
        """Let the stopped message go on."""
        self._released.set()

    def cut_after(self, text: bytes) -> None:
        """Cut the client off once the server has got `text` and the Sync after it."""
        self._cut_text = text

    def cut_all(self) -> None:
        """Close every connection, on both sides."""
        for each in list(self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _join(self) -> None:
        # Only when nobody reads from a socket any more may its number be used again.
        for thread in self._threads:
            thread.join(timeout=5)
        for each in self._sockets:
            each.close()

    def close(self) -> None:
        """Stop; idempotent."""
        self.release()
        # An accept is woken by a shutdown, not by a close.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(timeout=5)
        self.cut_all()
        self._join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            for each in (client, server):
                # What is passed on must be there at once, however small it is.
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [client, server]
            for work in (self._pass_requests, self._pass_answers):
                thread = threading.Thread(target=work, args=(client, server), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pass_requests(self, client: socket.socket, server: socket.socket) -> None:
        cutting = False
        with contextlib.suppress(OSError, EOFError):
            server.sendall(_read_sized(client))
            while True:
                kind, message = _read_message(client)
                self._hold_if_asked(message)
                server.sendall(message)
                self.round_trips += kind in ROUND_TRIP_TYPES
                if self._cut_text is not None and self._cut_text in message:
                    self._cut_text, cutting = None, True
                if cutting and kind in ROUND_TRIP_TYPES:
                    # The server's side stays open: it carries out what it was sent.
                    client.shutdown(socket.SHUT_RDWR)
                    return
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    def _hold_if_asked(self, message: bytes) -> None:
        if self._hold_text is not None and self._hold_text in message:
            self._hold_text = None
            self.held.set()
            self._released.wait(timeout=60)

    def _pass_answers(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while answer := server.recv(65536):
                client.sendall(answer)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


def _read_message(source: socket.socket) -> tuple[bytes, bytes]:
    kind = _read_exactly(source, 1)
    return kind, kind + _read_sized(source)


def _read_sized(source: socket.socket) -> bytes:
    length = _read_exactly(source, LENGTH_BYTES)
    return length + _read_exactly(source, struct.unpack("!I", length)[0] - LENGTH_BYTES)


def _read_exactly(source: socket.socket, size_bytes: int) -> bytes:
    found = b""
    while len(found) < size_bytes:
        chunk = source.recv(size_bytes - len(found))
        if not chunk:
            raise EOFError
        found += chunk
    return found


@contextlib.contextmanager
def running_proxy(host: str, port: int) -> Iterator[PostgresProxy]:
    """Give a proxy to the server at this place."""
    proxy = PostgresProxy(host, port)
    try:
        yield proxy
    finally:
        proxy.close()
