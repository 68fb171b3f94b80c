"""How fast a whole log is replayed, against reading it and parsing its JSON, nothing else.

    python bench/replay_check.py [--tasks 70000] [--runs 5] [--jobs N] [--database NAME]

`orchd replay` folds every stream and compares every row. The yardstick reads the same
events in the same order with the same driver and calls `json.loads` on the data. The two
take turns, so that a busy machine slows both; the figure is the ratio of the medians.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

from harness.replaying import replay
from support import postgres


@contextmanager
def database(kind: str) -> Iterator[str]:
    """Lend the URL of an empty database of that kind."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/orchd.db"
        return
    with postgres.running_server(fsync=True) as server, server.database() as url:
        yield url


def measure(url: str, chosen: argparse.Namespace) -> str:
    """Return a line with the figures of one database."""
    told = replay(url, chosen.tasks, chosen.runs, chosen.jobs)
    rates = {name: median(values[name] for values in told) for name in told[0]}
    parsed = rates["parse_events_per_second"]
    checked = rates["check_events_per_second"]
    replayed = rates["replay_events_per_second"]
    return (
        f"parsed {parsed:,.0f} events/s, checked {checked:,.0f}/s"
        f" ({checked / parsed:.2f}), replayed {replayed:,.0f}/s ({replayed / parsed:.2f})"
    )


def main() -> None:
    """Print a line for each database."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=70_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append")
    chosen = parser.parse_args()
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}")
    for kind in chosen.database or ["sqlite", "postgresql"]:
        with database(kind) as url:
            print(f"{kind}: {measure(url, chosen)}", flush=True)


if __name__ == "__main__":
    main()
