"""Many clients that submit single tasks over HTTP, each over a connection of its own.

    python -m harness.http_load ADDRESS TOKEN CLIENTS SECONDS

A program of its own, so that it shares no interpreter with anybody who measures.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from urllib.parse import urlsplit

from peers.protocol import NOOP, payload, say

REQUEST = (
    "POST /v1/tasks HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
    "Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
)
CREATED = b" 201 "


class Refused(Exception):
    """The daemon did not create a task."""


async def submit_until(address: str, token: str, deadline: float, first: int) -> int:
    """Submit one task after the other; return how many were created."""
    place = urlsplit(address)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    count = 0
    while time.perf_counter() < deadline:
        given = payload(first + count)
        body = json.dumps({"description": NOOP, "executor": NOOP, "payload": given})
        head = REQUEST.format(host=place.netloc, token=token, length=len(body))
        writer.write((head + body).encode())
        await _require_created(reader)
        count += 1
    writer.close()
    return count


async def _require_created(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    lengths = [line for line in lines if line.lower().startswith(b"content-length:")]
    body = await reader.readexactly(int(lengths[0].split(b":")[1]))
    if CREATED not in status:
        raise Refused(f"{status.decode()}: {body[:200].decode(errors='replace')}")


async def run(address: str, token: str, clients: int, seconds: float) -> None:
    """Let all clients submit for some time, and tell how many tasks there are now."""
    began = time.perf_counter()
    counts = await asyncio.gather(
        *(
            submit_until(address, token, began + seconds, client * 1_000_000)
            for client in range(clients)
        )
    )
    say({"count": sum(counts), "seconds": time.perf_counter() - began})


if __name__ == "__main__":
    where, password, wanted, duration = sys.argv[1:]
    asyncio.run(run(where, password, int(wanted), float(duration)))
