"""How many events a second the event store appends, with a projection row for each.

    python bench/eventstore_append.py [--batch 300] [--seconds 5]

Both databases wait for their disk at every commit, as in real life. PostgreSQL is started
by the tests' own support and removed afterwards.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from orchd_eventstore import Commit
from support.eventstores import create_schema, open_store, thing
from support.postgres import running_server

ROWS = 2_000
"""Things that are made first and then changed again and again."""


def events_per_second(url: str, batch: int, seconds: float) -> float:
    """Append batches to an empty log for some time."""
    create_schema(url)
    store = open_store(url)
    try:
        names = [f"{number:06}" for number in range(max(ROWS, batch))]
        for start in range(0, len(names), 500):
            made = [thing(name) for name in names[start : start + 500]]
            store.append(made, command_id=f"made-{start}")
        return _changes_per_second(store.append, names, batch, seconds)
    finally:
        store.close()


def _changes_per_second(
    append: Callable[..., Commit], names: list[str], batch: int, seconds: float
) -> float:
    versions = dict.fromkeys(names, 1)
    began, stored, commit = time.perf_counter(), 0, 0
    while time.perf_counter() - began < seconds:
        first = commit * batch % (len(names) - batch + 1)
        chosen = names[first : first + batch]
        items = [thing(name, versions[name], counters={"changes": 1}) for name in chosen]
        append(items, command_id=f"c{commit}")
        for name in chosen:
            versions[name] += 1
        stored, commit = stored + batch, commit + 1
    return stored / (time.perf_counter() - began)


def main() -> None:
    """Print a line for each database."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/bench.sqlite"
        figure = events_per_second(url, options.batch, options.seconds)
        print(f"sqlite: {figure:,.0f} events/s in batches of {options.batch}")
    with running_server(fsync=True) as server, server.database() as url:
        figure = events_per_second(url, options.batch, options.seconds)
        print(f"postgresql: {figure:,.0f} events/s in batches of {options.batch}")


if __name__ == "__main__":
    main()
