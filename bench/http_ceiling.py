"""How many single submissions over HTTP could be taken if taking one cost nothing.

    python bench/http_ceiling.py [--seconds 5] [--runs 5] [--clients 64]

The clients of the comparison, in a process of their own, speak to these in turns: a server
that looks at nothing and answers every piece that arrives, the daemon's server with an
application that reads the body and answers, and the daemon on either database. The first
two say what Python and this machine leave for everything that a daemon is for.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import cast

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

from starlette.types import Receive, Scope, Send

from harness.line_process import LineProcess
from harness.orchd_loads import submit_over_http
from harness.orchd_trial import START_SECONDS, OrchdTrial
from harness.servers import POSTGRESQL, SQLITE, Servers
from orchd_ops.http.listening import listen_tcp
from orchd_ops.http.server import HTTPServer
from support.daemons import READY_MARK

BODY = b"x" * 800
"""As long as what the daemon answers."""
WHOLE = b"HTTP/1.1 201 Created\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)
HEADERS = [(b"content-length", b"%d" % len(BODY)), (b"content-type", b"application/json")]


class Echo(asyncio.Protocol):
    """Answers whatever arrives."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer."""
        self._transport.write(WHOLE)


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body and answer, as an ASGI application."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 201, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


async def serve(kind: str) -> None:
    """Be one of the two servers until the process is ended."""
    listener = listen_tcp("127.0.0.1", 0)
    print(f"{READY_MARK} http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    if kind == "bare":
        await asyncio.get_running_loop().create_server(Echo, sock=listener)
    else:
        await HTTPServer(answer, listener).start()
    await asyncio.Event().wait()


@contextmanager
def server(kind: str, folder: Path) -> Iterator[str]:
    """Lend the address of one of the two servers, in a process of its own."""
    process = LineProcess(
        [sys.executable, str(Path(__file__).resolve()), "--serve", kind],
        environment=os.environ,
        folder=folder,
        errors=folder / "server.err",
    )
    try:
        yield process.wait_for_line(READY_MARK, START_SECONDS).split()[-1]
    finally:
        process.terminate()


@contextmanager
def daemon(kind: str, servers: Servers, folder: Path) -> Iterator[str]:
    """Lend the address of a daemon on an empty state."""
    with servers.place(kind) as place:
        trial = OrchdTrial(place, folder)
        try:
            yield trial.intake().address()
        finally:
            trial.close()


def measure(chosen: argparse.Namespace) -> dict[str, list[float]]:
    """Return the rates of everybody, who take turns."""
    rates: dict[str, list[float]] = {}
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="o-")))
        servers = Servers(stack, home)
        starts: dict[str, Callable[[Path], AbstractContextManager[str]]] = {
            "a server that looks at nothing": partial(server, "bare"),
            "the daemon's server, an empty application": partial(server, "empty"),
            "the daemon, SQLite": partial(daemon, SQLITE, servers),
            "the daemon, PostgreSQL": partial(daemon, POSTGRESQL, servers),
        }
        for _ in range(chosen.runs):
            for name, start in starts.items():
                folder = Path(tempfile.mkdtemp(dir=home))
                with start(folder) as address:
                    done = submit_over_http(address, folder, chosen.clients, chosen.seconds)
                rates.setdefault(name, []).append(done.per_second)
    return rates


def main() -> None:
    """Print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--serve", choices=["bare", "empty"], help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        asyncio.run(serve(chosen.serve))
        return
    print(f"{os.cpu_count()} cores, {chosen.clients} clients, medians of {chosen.runs}")
    for name, values in measure(chosen).items():
        print(f"{name:<42} {median(values):8,.0f} requests/s")


if __name__ == "__main__":
    main()
