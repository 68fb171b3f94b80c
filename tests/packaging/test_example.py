"""The job that the README lets a newcomer run."""

from __future__ import annotations

import runpy
import socket
from pathlib import Path

from orchd import Client

EXAMPLE = Path(__file__).parents[2] / "examples" / "stdlib_check" / "run.py"


def test_progress_stands_still_when_the_daemon_has_just_left() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    done_of = runpy.run_path(str(EXAMPLE))["done_of"]
    with Client(f"http://127.0.0.1:{port}", token="t") as client:
        assert done_of(client, 463) == 463
