"""Puts very many tasks through one daemon and sees whether it grows; `make soak`.

    python -m soak [--tasks 1000000] [--database postgresql|sqlite] [--warm-up 200000]

The daemon is a process of its own and executes the tasks in its loop (`echo`); they are
handed in over HTTP so that a few thousand wait at any time. What is seen of the daemon goes
into a CSV file and a picture. Ends with 1 when memory grew by a megabyte or more for each
100,000 tasks after the warm-up, or when descriptors or asyncio tasks grew at all.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from chaos.fleet import Fleet, fleet
from orchd.client import Client
from soak.growth import GROWTH_MB_MAX, PER_TASKS, faults, growth
from soak.page import Page
from soak.plot import draw
from soak.samples import Sample, Sampler, write
from support import postgres

DOCS = Path(__file__).parents[2] / "docs"
CHUNK_TASKS = 500
WAITING_TASKS_MAX = 4_000
POLL_SECONDS = 0.1
STALLED_SECONDS = 120.0
TOML = "[worker]\nconcurrency = 64\n"


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--warm-up", type=int, default=200_000, metavar="TASKS")
    parser.add_argument(
        "--database", choices=["postgresql", "sqlite"], default="postgresql"
    )
    parser.add_argument("--interval", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("--growth-max", type=float, default=GROWTH_MB_MAX, metavar="MB")
    parser.add_argument("--csv", type=Path, default=DOCS / "soak.csv")
    parser.add_argument("--plot", type=Path, default=DOCS / "images" / "soak.svg")
    return parser.parse_args()


@contextmanager
def database(kind: str, home: Path) -> Iterator[str]:
    """Lend the URL of an empty database of that kind, which waits for its disk."""
    if kind == "sqlite":
        yield f"sqlite:///{home}/orchd.db"
        return
    with postgres.running_server(fsync=True) as server, server.database() as url:
        yield url


def soak(there: Fleet, tasks: int, interval_seconds: float) -> list[Sample]:
    """Put tasks through one daemon; return what was seen of it."""
    [daemon] = there.start()
    sampler = Sampler(daemon.url, daemon.pid, interval_seconds)
    sampler.start()
    try:
        with daemon.client() as client, closing(Page(daemon.url)) as page:
            _hand_in(client, page, tasks)
            _wait_until_waiting(page, tasks, 0)
    finally:
        sampler.stop()
    there.stop()
    counts = there.state.counts()
    assert counts == {"completed": tasks}, counts
    return sampler.samples


def _hand_in(client: Client, page: Page, tasks: int) -> None:
    for first in range(0, tasks, CHUNK_TASKS):
        _wait_until_waiting(page, first, WAITING_TASKS_MAX)
        numbers = range(first, min(first + CHUNK_TASKS, tasks))
        refused = [x for x in client.submit_many(map(_task, numbers)) if _is_refused(x)]
        assert not refused, refused[:3]


def _task(number: int) -> dict[str, Any]:
    return {"id": f"t{number:08}", "description": f"task {number}", "executor": "echo"}


def _is_refused(outcome: dict[str, Any]) -> bool:
    return bool(outcome["outcome"] != "created")


def _wait_until_waiting(page: Page, handed_in: int, at_most: int) -> None:
    """Wait until no more than so many of the tasks are unfinished."""
    moved_at, last = time.monotonic(), -1
    while handed_in > at_most and (done := page.finished()) < handed_in - at_most:
        if done != last:
            moved_at, last = time.monotonic(), done
        assert time.monotonic() - moved_at < STALLED_SECONDS, f"stalled at {done:,} tasks"
        time.sleep(POLL_SECONDS)


def judge(samples: Sequence[Sample], chosen: argparse.Namespace) -> int:
    """Write everything down and say what came of it; return the exit code."""
    write(chosen.csv, samples)
    found = growth(samples, chosen.warm_up)
    last, least = samples[-1], samples[0]
    title = f"One daemon, {last.tasks:,} tasks on {chosen.database}"
    draw(chosen.plot, samples, found, title)
    _tell(
        f"{last.tasks:,} tasks on {chosen.database} in {last.seconds:.0f} s, "
        f"{last.tasks / last.seconds:,.0f}/s"
    )
    _tell(
        f"memory: {least.resident_mb:.1f} MB at first, {last.resident_mb:.1f} MB at last, "
        f"{found.mb_per_100_000:+.3f} MB for each {PER_TASKS:,} tasks "
        f"after {chosen.warm_up:,}"
    )
    _tell(f"at last: {last.descriptors} descriptors, {last.asyncio_tasks} asyncio tasks")
    wrong = list(faults(found, chosen.growth_max))
    _tell("\n".join(wrong) or "nothing grew")
    return int(bool(wrong))


def main() -> int:
    """Do what the command line asks for; return the exit code."""
    chosen = arguments()
    with tempfile.TemporaryDirectory(prefix="orchd-") as folder:
        home = Path(folder)
        with database(chosen.database, home) as url, fleet(home, url, TOML) as there:
            samples = soak(there, chosen.tasks, chosen.interval)
    return judge(samples, chosen)


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
