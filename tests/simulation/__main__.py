"""Runs any number of seeds over several processes; `make simulate` calls this.

Usage: python -m simulation FIRST SEEDS JOBS [--trace]

Ends with 1 when a seed broke a rule.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Iterator

from simulation.seeds import Totals, failure, run_seed, run_seeds

CHUNK_SEEDS = 100


def main(arguments: list[str]) -> int:
    """Run what the command line asks for; return the exit code."""
    first, count, jobs = (int(argument) for argument in arguments[:3])
    seeds = range(first, first + count)
    if "--trace" in arguments:
        return _trace(seeds)
    begun = time.monotonic()
    totals = Totals()
    for part in _parts(seeds, jobs):
        totals.merge(part)
        for seed, violation in part.violations.items():
            _tell(failure(seed, violation))
        _progress(totals, count, time.monotonic() - begun)
    seconds = time.monotonic() - begun
    _tell("")
    _tell(f"{seconds:.0f} s, {seconds * jobs / count * 1000:.1f} ms of a core a seed")
    _tell("\n".join(totals.lines()))
    return int(bool(totals.violations))


def _parts(seeds: range, jobs: int) -> Iterator[Totals]:
    chunks = [seeds[n : n + CHUNK_SEEDS] for n in range(0, len(seeds), CHUNK_SEEDS)]
    if jobs == 1:
        yield from map(run_seeds, chunks)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(run_seeds, chunks)


def _trace(seeds: range) -> int:
    broken = False
    for seed in seeds:
        report = run_seed(seed, tracing=True)
        _tell("\n".join(report.lines))
        if report.violation:
            broken = True
            _tell(failure(seed, report.violation))
    return int(broken)


def _progress(totals: Totals, count: int, seconds: float) -> None:
    done = len(totals.events)
    rate = done / seconds if seconds else 0.0
    left = (count - done) / rate if rate else 0.0
    end = "\r" if sys.stdout.isatty() else "\n"
    broken = len(totals.violations)
    speed = f"{rate:.0f}/s, {left / 60:.0f} min left"
    sys.stdout.write(f"{done} of {count} seeds, {speed}, {broken} broken{end}")
    sys.stdout.flush()


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
