"""How fast a whole log is checked, against reading it and parsing its JSON, nothing else.

    python bench/replay_check.py [--tasks 70000] [--runs 5] [--jobs N] [--database NAME]

`orchd replay --check` folds every stream and compares every row. The yardstick reads the
same events in the same order with the same driver and calls `json.loads` on the data. The
two take turns, so that a busy machine slows both; the figure is the ratio of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from orchd.ledger.urls import is_sqlite, sqlite_path
from orchd.maintenance.replay import Options, check
from orchd.system import RealSystem
from orchd_eventstore.sqlite import driver
from support import postgres
from support.large_states import make_large_state

IN_STREAMS = "SELECT stream, version, type, data, meta FROM events ORDER BY stream, version"


@contextmanager
def database(kind: str) -> Iterator[str]:
    """Lend the URL of an empty database of that kind."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/orchd.db"
        return
    with postgres.running_server(fsync=True) as server, server.database() as url:
        yield url


def settle(url: str) -> None:
    """Let PostgreSQL do now what it would do by itself in the minute after."""
    if not is_sqlite(url):
        import psycopg

        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")


def parse_all(url: str) -> int:
    """Read every event and parse its data; return how many there are."""
    if is_sqlite(url):
        connection: Any = driver().connect(sqlite_path(url))
    else:
        import psycopg

        connection = psycopg.connect(url, autocommit=True)
    count = 0
    for row in connection.execute(IN_STREAMS):
        json.loads(row[3])
        count += 1
    connection.close()
    return count


def check_all(url: str, jobs: int | None) -> None:
    """Check everything, and find nothing."""
    wrong = list(check(url, system=RealSystem(), options=Options(jobs=jobs)))
    assert not wrong, wrong[:3]


def seconds(work: Callable[[], object]) -> float:
    """Return how long a piece of work took."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(url: str, runs: int, jobs: int | None) -> str:
    """Return a line with the figures of one database."""
    events = parse_all(url)
    check_all(url, jobs)
    parsed, checked = [], []
    for _ in range(runs):
        parsed.append(seconds(lambda: parse_all(url)))
        checked.append(seconds(lambda: check_all(url, jobs)))
    ratio = median(parsed) / median(checked)
    return (
        f"{events:,} events: parsed {events / median(parsed):,.0f}/s, "
        f"checked {events / median(checked):,.0f}/s, ratio {ratio:.2f}"
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
            make_large_state(url, chosen.tasks)
            settle(url)
            print(f"{kind}: {measure(url, chosen.runs, chosen.jobs)}", flush=True)


if __name__ == "__main__":
    main()
