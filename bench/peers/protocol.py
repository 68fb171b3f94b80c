"""What the driver of every peer speaks, and the work that every peer does.

A driver runs in the peer's own environment, as `python -m peers.NAME.driver ROLE`:

client  reads one JSON object a line, does what it asks for and answers with one line;
worker  executes tasks until it is ended; a task of the kind `stamp` says with a line how
        long after its submission it was started.

`$BENCH_URL` is the place of the peer's state: a database's URL or a file's path.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

NOOP = "noop"
STAMP = "stamp"
CHUNK_TASKS = 1000
"""Tasks in one call of a bulk submission."""
NOTE = "x" * 80
LETTERS = "eeeeettttaaaooiinnssrrhhlldducmfwygpb" + 7 * " "

Payload = dict[str, Any]
JSONObject = dict[str, Any]


def state_url() -> str:
    """Return where the peer's state is."""
    return os.environ["BENCH_URL"]


def words(seed: int, length: int) -> str:
    """Return so many characters of made-up words, always the same for a seed."""
    return "".join(random.Random(seed).choices(LETTERS, k=length))


def payload(number: int, size_bytes: int = 0) -> Payload:
    """Return a payload of about 200 bytes of JSON, or of about `size_bytes`.

    A large one is words, because one letter repeated would be compressed to nothing.
    """
    return {
        "n": number,
        "t": time.time(),
        "url": "https://example.org/a/b/c",
        "user": 12345,
        "tags": ["alpha", "beta", "gamma"],
        "note": words(number, size_bytes - 120) if size_bytes > 200 else NOTE,
    }


def result(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the small result of every task."""
    return {"ok": True, "n": given["n"]}


def noop(given: Mapping[str, Any]) -> dict[str, Any]:
    """Be the body of a task that does nothing."""
    return result(given)


def stamp(given: Mapping[str, Any]) -> dict[str, Any]:
    """Be the body of a task that tells how long it took to get here."""
    waited = time.time() - given["t"]
    say({"started": given["n"], "waited_seconds": waited})
    return result(given)


BODIES: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    NOOP: noop,
    STAMP: stamp,
}


def say(record: Mapping[str, Any]) -> None:
    """Write one line for whoever started this process, in one piece and at once."""
    os.write(1, json.dumps(record).encode() + b"\n")


class Peer(ABC):
    """A peer as its driver sees it."""

    async def set_up(self) -> None:  # noqa: B027  # not everybody has to
        """Prepare an empty state, before anything else; called in a process of its own."""

    @abstractmethod
    async def open(self) -> None:
        """Connect as a client."""

    @abstractmethod
    async def enqueue(self, kind: str, payloads: Sequence[Payload]) -> None:
        """Submit a chunk in the quickest way that the peer offers."""

    @abstractmethod
    async def enqueue_one(self, kind: str, given: Payload) -> None:
        """Submit one task as its users do."""

    @abstractmethod
    async def count_done(self) -> int:
        """Return how many tasks are finished."""

    @abstractmethod
    def work(self) -> None:
        """Execute tasks until the process is ended."""


class Client:
    """Carries out what the harness asks for."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def serve(self) -> None:
        """Answer request after request until there is no more."""
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            asked = json.loads(line)
            action = getattr(self, f"do_{asked.pop('do')}")
            say(await action(**asked))

    async def do_set_up(self) -> JSONObject:
        """Prepare the state."""
        await self._peer.set_up()
        return {"ready": True}

    async def do_open(self) -> JSONObject:
        """Connect."""
        await self._peer.open()
        return {"ready": True}

    async def do_enqueue(self, kind: str, count: int, size_bytes: int = 0) -> JSONObject:
        """Submit tasks in chunks."""
        payloads = [payload(number, size_bytes) for number in range(count)]
        began = time.perf_counter()
        for first in range(0, count, CHUNK_TASKS):
            await self._peer.enqueue(kind, payloads[first : first + CHUNK_TASKS])
        return {"count": count, "seconds": time.perf_counter() - began}

    async def do_singles(self, kind: str, seconds: float) -> JSONObject:
        """Submit one task after the other for some time."""
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            await self._peer.enqueue_one(kind, payload(count))
            count += 1
        return {"count": count, "seconds": time.perf_counter() - began}

    async def do_pace(self, kind: str, count: int, per_second: float) -> JSONObject:
        """Submit tasks at a steady rate."""
        began = time.perf_counter()
        for number in range(count):
            await self._peer.enqueue_one(kind, payload(number))
            due = began + (number + 1) / per_second
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
        return {"count": count, "seconds": time.perf_counter() - began}

    async def do_count_done(self) -> JSONObject:
        """Count."""
        return {"done": await self._peer.count_done()}


def run(peer: Peer) -> None:
    """Be the driver of a peer, in the role that the command line names."""
    if sys.argv[1] == "worker":
        peer.work()
    else:
        asyncio.run(Client(peer).serve())
