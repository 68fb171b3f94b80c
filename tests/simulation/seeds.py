"""Runs seeds, many or one, and adds up what came of them."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Iterable
from pathlib import Path

import msgspec

from simulation.coverage import Coverage, Site, WriteSite, await_sites, write_sites
from simulation.simulation import Report, Simulation

KEPT = Path(__file__).with_name("kept_seeds.txt")
"""Seeds that broke a rule once: one a line, with what it was."""
TARGETED_EVERY = 4
COLLECT_EVERY = 25
"""Seeds between two collections of garbage."""


def target_of(seed: int) -> Site | WriteSite | None:
    """Return the place at which a seed kills a process, if it is one of those that do."""
    if seed % TARGETED_EVERY:
        return None
    targets: tuple[Site | WriteSite, ...] = (*await_sites(), *write_sites())
    return targets[seed // TARGETED_EVERY % len(targets)]


def run_seed(seed: int, *, tracing: bool = False) -> Report:
    """Let one seed happen."""
    return Simulation(seed, target=target_of(seed), tracing=tracing).run()


def kept_seeds() -> list[int]:
    """Return the seeds that are always run."""
    lines = (line.partition("#")[0].strip() for line in KEPT.read_text().splitlines())
    return [int(line) for line in lines if line]


class Totals(msgspec.Struct):
    """What came of several seeds."""

    events: list[int] = []
    """Of each seed, in the log."""
    fleets: int = 0
    """Seeds with two daemons or more."""
    crashes: int = 0
    seconds: float = 0.0
    """Virtual seconds."""
    coverage: Coverage = msgspec.field(default_factory=Coverage)
    violations: dict[int, str] = {}

    def add(self, report: Report) -> None:
        """Take in one seed."""
        self.events.append(report.events)
        self.fleets += report.daemons > 1
        self.crashes += report.crashes
        self.seconds += report.seconds
        self.coverage.add(report.coverage)
        if report.violation:
            self.violations[report.seed] = report.violation

    def merge(self, other: Totals) -> None:
        """Take in what others have run."""
        self.events += other.events
        self.fleets += other.fleets
        self.crashes += other.crashes
        self.seconds += other.seconds
        self.coverage.add(other.coverage)
        self.violations |= other.violations

    @property
    def median_events(self) -> float:
        """The median of the seeds' events."""
        return statistics.median(self.events)

    def lines(self) -> list[str]:
        """Return lines for people; failing seeds last."""
        seeds = len(self.events)
        return [
            f"{seeds} seeds, {self.fleets / seeds:.0%} with two daemons or more; "
            f"{sum(self.events)} events, median {self.median_events:g} a seed; "
            f"{self.crashes} crashes in {self.seconds / 3600:.1f} virtual hours",
            *self.coverage.report(),
            f"{len(self.violations)} seeds broke a rule",
            *(failure(seed, text) for seed, text in sorted(self.violations.items())),
        ]


def failure(seed: int, violation: str) -> str:
    """Return what to tell of a seed that broke a rule, and how to see it again."""
    return f"seed {seed}: {violation}\n  again: make simulate FIRST={seed} SEEDS=1 TRACE=1"


def run_seeds(seeds: Iterable[int]) -> Totals:
    """Run seeds one after the other in this process."""
    totals = Totals()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for number, seed in enumerate(seeds, start=1):
            totals.add(run_seed(seed))
            if number % COLLECT_EVERY == 0:
                gc.collect()
    finally:
        if was_enabled:
            gc.enable()
    return totals
