"""The production engine under thousands of seeds: no rule is broken, and the seeds are such
that this says something."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from simulation.coverage import await_sites, write_sites
from simulation.seeds import Totals, failure, kept_seeds, run_seed, run_seeds

SEEDS_PER_TEST = 125
FIRST_SEEDS = range(1, 2001, SEEDS_PER_TEST)
EVENTS_MEDIAN_MIN = 200


def require_unbroken(totals: Totals) -> None:
    told = "\n".join(failure(seed, text) for seed, text in totals.violations.items())
    assert not totals.violations, told


@pytest.mark.parametrize("first", FIRST_SEEDS)
def test_no_seed_breaks_a_rule(first: int) -> None:
    totals = run_seeds(range(first, first + SEEDS_PER_TEST))
    require_unbroken(totals)
    assert totals.median_events >= EVENTS_MEDIAN_MIN
    assert totals.fleets >= SEEDS_PER_TEST / 2
    assert totals.crashes >= SEEDS_PER_TEST / 2


def test_no_kept_seed_breaks_its_rule_again() -> None:
    require_unbroken(run_seeds(kept_seeds()))


def test_a_seed_replays_exactly() -> None:
    once, again = (run_seed(14, tracing=True) for _ in range(2))
    assert once.lines
    assert once.lines == again.lines


def test_the_report_tells_which_awaits_and_commits_a_crash_has_hit() -> None:
    totals = run_seeds(range(1, 31))
    awaits = totals.coverage.awaits & set(await_sites())
    writes = totals.coverage.writes & set(write_sites())
    assert awaits
    assert writes
    told = "\n".join(totals.lines())
    assert f"hit by a crash: {len(awaits)} of {len(await_sites())}" in told
    assert f"before and after: {len(writes)} of {len(write_sites())}" in told
    for site in totals.coverage.missed():
        assert f"never hit: {site}" in told


def test_the_command_runs_seeds_side_by_side_and_traces_one() -> None:
    def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "simulation", *arguments],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
        )

    assert "4 seeds, " in simulate("1", "4", "2").stdout
    assert "task.submitted" in simulate("1", "1", "1", "--trace").stdout
