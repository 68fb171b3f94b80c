"""A proxy between a client and PostgreSQL that counts, holds, swallows and cuts.

It reads the client's messages one by one (type, length, body; see "Message Formats" in
PostgreSQL's manual) and passes the server's bytes on as they are.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

LENGTH_BYTES = 4
# A client waits for the server after each of these: Sync and a simple Query.
ROUND_TRIP_TYPES = (b"S", b"Q")
NO_ENCRYPTION = "sslmode=disable&gssencmode=disable"
HOLD_SECONDS_MAX = 60


class PostgresProxy:
    """Listens on a port of its own; each connection has a pair of threads.

    `round_trips` counts how often clients could have waited for the server: whether they
    did shows when it is asked what they send after `hold_answers`. `hold(text)` stops the
    next message that contains `text`, and `hold_sync_after(text)` the Sync that follows it,
    until `release`; `held` is set meanwhile.
    `on_message(text, action)` calls `action` before it passes the next message that
    contains `text` on. `cut_after(text)` passes the messages up to the next Sync on, from
    the one that contains `text`, and then closes the client's side at once; `cuts` counts
    how often it has. Between `swallow` and `restore` it takes every byte and passes none
    on, as a machine does that has vanished behind a firewall; `strand` does so for ever to
    the connections that there are, and passes new ones on. Between `refuse` and `restore`
    nobody gets in.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self.round_trips = 0
        self.cuts = 0
        self.held = threading.Event()
        self._released = threading.Event()
        self.answering = threading.Event()
        self.answering.set()
        self._swallows = False
        self._refuses = False
        self._hold_text: bytes | None = None
        self._hold_sync_text: bytes | None = None
        self._cut_text: bytes | None = None
        self._watched: tuple[bytes, Callable[[], None]] | None = None
        self._links: set[_Link] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def url(self, url: str) -> str:
        """Return a TCP URL such that the proxy can read along."""
        return f"{url}{'&' if '?' in url else '?'}{NO_ENCRYPTION}"

    # --- faults -----------------------------------------------------------------------

    def hold(self, text: bytes) -> None:
        """Stop the next message that contains `text`."""
        self.held.clear()
        self._released.clear()
        self._hold_text = text

    def hold_sync_after(self, text: bytes) -> None:
        """Stop the end of the next batch that contains `text`, not the batch itself."""
        self.held.clear()
        self._released.clear()
        self._hold_sync_text = text

    def hold_answers(self) -> None:
        """Stop everything that the server says, and pass on what clients do."""
        self.answering.clear()

    def release(self) -> None:
        """Let go on what was stopped."""
        self._released.set()
        self.answering.set()

    def on_message(self, text: bytes, action: Callable[[], None]) -> None:
        """Call `action` when the next message with `text` arrives, before it goes on."""
        self._watched = (text, action)

    def cut_after(self, text: bytes) -> None:
        """Cut the client off once the server has got `text` and the Sync after it."""
        self._cut_text = text

    def swallow(self) -> None:
        """Pass nothing on any more, in either direction, and let nobody notice."""
        self._swallows = True
        self.strand()

    def strand(self) -> None:
        """Pass nothing more on for the connections that there are."""
        for link in self._all_links():
            link.flowing.clear()

    def refuse(self) -> None:
        """Cut every connection, and let nobody in."""
        self._refuses = True
        self.cut_all()

    def restore(self) -> None:
        """Cut what was swallowed, and pass new connections on again."""
        self._swallows = self._refuses = False
        self.cut_all()

    def cut_all(self) -> None:
        """Close every connection, on both sides."""
        for link in self._all_links():
            link.shut()

    def close(self) -> None:
        """Stop; idempotent."""
        self.release()
        # An accept is woken by a shutdown, not by a close.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(timeout=5)
        self.cut_all()
        for link in self._all_links():
            link.join()

    def _all_links(self) -> list[_Link]:
        with self._lock:
            return list(self._links)

    # --- what the links ask -----------------------------------------------------------

    def passing(self, kind: bytes, message: bytes) -> Orders:
        """Wait while `message` must not go on; return what to do with what follows it."""
        if self._hold_text is not None and self._hold_text in message:
            self._hold_text = None
            self.wait_for_release()
        with self._lock:
            self.round_trips += kind in ROUND_TRIP_TYPES
            watched, cut, hold = self._watched, self._cut_text, self._hold_sync_text
            noticed = watched is not None and watched[0] in message
            self._watched = None if noticed else watched
            orders = Orders(_is_in(cut, message), _is_in(hold, message))
            self._cut_text = None if orders.cut else cut
            self._hold_sync_text = None if orders.hold_sync else hold
        if noticed and watched is not None:
            watched[1]()
        return orders

    def wait_for_release(self) -> None:
        """Hold the calling thread until `release`."""
        self.held.set()
        self._released.wait(HOLD_SECONDS_MAX)

    def note_cut(self) -> None:
        """Count a connection that was cut after its batch."""
        with self._lock:
            self.cuts += 1

    def forget(self, link: _Link) -> None:
        """Let go of a link that has ended."""
        with self._lock:
            self._links.discard(link)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = self._connected()
            if server is None:
                # Nobody is at home there: the client hears what it would hear directly.
                client.close()
                continue
            link = _Link(self, client, server)
            if self._swallows:
                link.flowing.clear()
            with self._lock:
                self._links.add(link)
            link.start()

    def _connected(self) -> socket.socket | None:
        if self._refuses:
            return None
        try:
            return socket.create_connection(self._server)
        except OSError:
            return None


class Orders(NamedTuple):
    """What is to be done with the rest of a client's batch."""

    cut: bool
    hold_sync: bool


def _is_in(text: bytes | None, message: bytes) -> bool:
    return text is not None and text in message


class _Link:
    """One client's connection, and the one to the server that stands for it."""

    def __init__(
        self, proxy: PostgresProxy, client: socket.socket, server: socket.socket
    ) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._left = 2
        self.flowing = threading.Event()
        self.flowing.set()
        self._lock = threading.Lock()
        for each in (client, server):
            # What is passed on must be there at once, however small it is.
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._threads = [
            threading.Thread(target=self._run, args=(work,), daemon=True)
            for work in (self._pass_requests, self._pass_answers)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(timeout=5)

    def shut(self) -> None:
        """Close both sides for whoever reads or writes there."""
        for each in (self._client, self._server):
            _shut(each)
        self.flowing.set()

    def _run(self, work: Callable[[], None]) -> None:
        with contextlib.suppress(OSError, EOFError):
            work()
        with self._lock:
            self._left -= 1
            last = not self._left
        if last:
            # Only when nobody reads from a socket any more may its number be used again.
            self._client.close()
            self._server.close()
            self._proxy.forget(self)

    def _pass_requests(self) -> None:
        try:
            first = _read_sized(self._client)
            self.flowing.wait()
            self._server.sendall(first)
            cutting = holding = False
            while True:
                kind, message = _read_message(self._client)
                self.flowing.wait()
                orders = self._proxy.passing(kind, message)
                cutting, holding = cutting or orders.cut, holding or orders.hold_sync
                if holding and kind in ROUND_TRIP_TYPES:
                    holding = False
                    self._proxy.wait_for_release()
                is_last = cutting and kind in ROUND_TRIP_TYPES
                if is_last:
                    # Before the server can answer, or the answer might get through.
                    _shut(self._client)
                self._server.sendall(message)
                if is_last:
                    # The server's side stays open: it carries out what it was sent.
                    self._proxy.note_cut()
                    return
        except (OSError, EOFError):
            _shut(self._server)

    def _pass_answers(self) -> None:
        try:
            while answer := self._server.recv(65536):
                self.flowing.wait()
                self._proxy.answering.wait()
                self._client.sendall(answer)
        finally:
            _shut(self._client)


def _shut(side: socket.socket) -> None:
    with contextlib.suppress(OSError):
        side.shutdown(socket.SHUT_RDWR)


def _read_message(source: socket.socket) -> tuple[bytes, bytes]:
    kind = _read_exactly(source, 1)
    return kind, kind + _read_sized(source)


def _read_sized(source: socket.socket) -> bytes:
    length = _read_exactly(source, LENGTH_BYTES)
    return length + _read_exactly(source, struct.unpack("!I", length)[0] - LENGTH_BYTES)


def _read_exactly(source: socket.socket, size_bytes: int) -> bytes:
    found = bytearray()
    while len(found) < size_bytes:
        chunk = source.recv(size_bytes - len(found))
        if not chunk:
            raise EOFError
        found += chunk
    return bytes(found)


@contextlib.contextmanager
def running_proxy(host: str, port: int) -> Iterator[PostgresProxy]:
    """Give a proxy to the server at this place."""
    proxy = PostgresProxy(host, port)
    try:
        yield proxy
    finally:
        proxy.close()
