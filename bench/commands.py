"""How many commands orchd runs in a second, and how long its event loop stands still.

Each task runs a program and is durable before it counts. A sync Python executor in warm
child processes is measured beside it.

    python bench/commands.py [--tasks N] [--repeat N] [--concurrency N] [--kind KIND]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from orchd.config.settings import ExecutorSettings, WorkerSettings
from orchd.executors.factory import build_executor
from orchd.executors.port import ExecutorPort
from orchd.system import RealSystem
from orchd_ops.serve import memory
from support.contexts import run_context
from support.engines import Harness, settings_for

KINDS = {
    "true": ExecutorSettings(name="work", type="command", argv=("true",)),
    "cat": ExecutorSettings(name="work", type="command", argv=("cat",)),
    "python": ExecutorSettings(name="work", type="python", target="support.user_code:told"),
}
PULSE_SECONDS = 0.001


class Figures(NamedTuple):
    """What one drain came to."""

    tasks_per_second: float
    late_p99_seconds: float
    """How late the loop came to what was due, in 99 of 100 cases."""
    busy_max_seconds: float
    """The longest that the loop computed at a stretch, without waiting for a processor."""


class Pulse:
    """Measures how late the event loop comes to what is due."""

    def __init__(self) -> None:
        self.late: list[float] = []
        self.busy: list[float] = []

    async def beat(self) -> None:
        """Beat until cancelled."""
        while True:
            due, worked = time.perf_counter() + PULSE_SECONDS, time.thread_time()
            await asyncio.sleep(PULSE_SECONDS)
            self.late.append(time.perf_counter() - due)
            self.busy.append(time.thread_time() - worked)


async def drain(url: str, executor: ExecutorPort, tasks: int, concurrency: int) -> Figures:
    """Submit tasks, then let one engine run them all."""
    settings = settings_for(url, concurrency=concurrency)
    harness = await Harness.open(url, [executor], settings=settings, start=False)
    await harness.engine.start(claim=False)
    await asyncio.gather(*(harness.submit(f"t{number}") for number in range(tasks)))
    # Children and supervisors stay warm; what it takes to have the first is not the point.
    await asyncio.gather(*(executor.execute(run_context()) for _ in range(concurrency)))
    memory.settle()
    pulse = Pulse()
    beating = asyncio.create_task(pulse.beat())
    began = time.perf_counter()
    harness.engine.resume_claims()
    await harness.settle(600)
    seconds = time.perf_counter() - began
    beating.cancel()
    with suppress(asyncio.CancelledError):
        await beating
    await harness.close()
    late = sorted(pulse.late)
    return Figures(tasks / seconds, late[len(late) * 99 // 100], max(pulse.busy))


def measure(kind: str, tasks: int, concurrency: int) -> Figures:
    """Drain a state of its own."""
    worker = WorkerSettings(concurrency=concurrency)
    executor = build_executor(KINDS[kind], worker, RealSystem(), "bench/worker")
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/orchd.db"
        return asyncio.run(drain(url, executor, tasks, concurrency))


def medians(figures: list[Figures]) -> Iterator[float]:
    """Return the median of each figure."""
    return (statistics.median(column) for column in zip(*figures, strict=True))


def main() -> None:
    """Print a line for each kind and concurrency."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--concurrency", type=int, action="append")
    parser.add_argument("--kind", choices=list(KINDS), action="append")
    chosen = parser.parse_args()
    os.environ["PYTHONPATH"] = sys.path[0]
    for kind in chosen.kind or KINDS:
        for concurrency in chosen.concurrency or (16, 64):
            rounds = range(chosen.repeat)
            figures = [measure(kind, chosen.tasks, concurrency) for _ in rounds]
            rate, late, busy = medians(figures)
            print(
                f"{kind:6} concurrency {concurrency:3}: {rate:7,.0f} tasks/s, loop late by "
                f"{late * 1000:.1f} ms (99 of 100), busy for {busy * 1000:.1f} ms at most",
                flush=True,
            )


if __name__ == "__main__":
    main()
