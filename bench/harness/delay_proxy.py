"""A proxy on loopback that is as far away as another machine.

    python -m harness.delay_proxy HOST PORT ROUND_TRIP_SECONDS

It passes every byte on half a round trip after it came, in both directions, and says with
a line on which port it listens. It is a process of its own, so that its work delays
nobody's interpreter.
"""

from __future__ import annotations

import queue
import socket
import sys
import threading
import time
from contextlib import suppress

from peers.protocol import say

CHUNK_BYTES = 1 << 16

Due = tuple[float, bytes]
"""When a chunk is to be passed on; an empty one ends the connection."""


def receive(source: socket.socket, chunks: queue.SimpleQueue[Due], delay: float) -> None:
    """Take chunks from one side, each with the moment when it is due at the other."""
    chunk = b"begin"
    while chunk:
        try:
            chunk = source.recv(CHUNK_BYTES)
        except OSError:
            chunk = b""
        chunks.put((time.perf_counter() + delay, chunk))


def send(target: socket.socket, chunks: queue.SimpleQueue[Due]) -> None:
    """Pass chunks on when they are due, in order."""
    with suppress(OSError):
        while True:
            due, chunk = chunks.get()
            time.sleep(max(0.0, due - time.perf_counter()))
            if not chunk:
                break
            target.sendall(chunk)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def link(client: socket.socket, server: socket.socket, delay: float) -> None:
    """Connect two sides in both directions."""
    for side in (client, server):
        side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for source, target in ((client, server), (server, client)):
        chunks: queue.SimpleQueue[Due] = queue.SimpleQueue()
        threading.Thread(target=receive, args=(source, chunks, delay), daemon=True).start()
        threading.Thread(target=send, args=(target, chunks), daemon=True).start()


def serve(host: str, port: int, delay: float) -> None:
    """Accept clients until the process is ended."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        say({"port": listener.getsockname()[1]})
        while True:
            client, _ = listener.accept()
            link(client, socket.create_connection((host, port)), delay)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) / 2)
