"""How many echo tasks orchd drains in a second, on SQLite and on PostgreSQL.

Every commit is on disk (synchronous=FULL, fsync=on) before anybody is told. PostgreSQL is
started here, on the disk of the temporary folder.

    python bench/orchd_drain.py [--tasks N] [--concurrency N] [--database sqlite|postgresql]
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from orchd.maintenance.bench import run
from orchd.system import RealSystem
from support import postgres


@contextmanager
def database(kind: str) -> Iterator[str]:
    """Lend the URL of a database of that kind."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/orchd.db"
        return
    with postgres.running_server(fsync=True) as server, server.database() as url:
        yield url


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append")
    chosen = parser.parse_args()
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}")
    for kind in chosen.database or ["sqlite", "postgresql"]:
        with database(kind) as url:
            report = run(
                url,
                system=RealSystem(),
                tasks=chosen.tasks,
                concurrency=chosen.concurrency,
            )
        print("\n".join(report.lines()), flush=True)


if __name__ == "__main__":
    main()
