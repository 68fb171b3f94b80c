"""Disables one mechanism in a workspace of its own, and looks who notices."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mutation.mutation import Mutation, Watcher
from mutation.running import FIRST_SEEDS, End, Verdict, chunks_of, run_tests, simulate
from mutation.workspace import Workspace, workspace

SHOWN_CHARACTERS = 140
BASELINE_SECONDS_MAX = 1_800.0


class Notice(NamedTuple):
    """Whether one of those who have to notice a mutation did."""

    by: str
    """A test, or `seed N`."""
    said: str
    is_right: bool
    """Whether it failed, and with the message that it has to fail with."""


class Judgement(NamedTuple):
    """What came of a mutation."""

    mutation: Mutation
    unit: Notice
    system: Notice
    seconds: float

    @property
    def survives(self) -> bool:
        """Whether somebody did not notice who should have."""
        return not (self.unit.is_right and self.system.is_right)


def judge(mutation: Mutation) -> Judgement:
    """Apply a mutation to a copy of the project and ask both who must notice it."""
    began = time.monotonic()
    with workspace() as there:
        there.apply(mutation.edits)
        unit = _noticed(there, mutation.unit)
        system = _noticed_by_system(there, mutation)
    return Judgement(mutation, unit, system, time.monotonic() - began)


def notice_of_test(mutation: Mutation) -> Notice:
    """Apply a mutation to a copy of the project and ask nobody but its own test."""
    with workspace() as there:
        there.apply(mutation.edits)
        return _noticed(there, mutation.unit)


def _noticed(
    there: Workspace, watcher: Watcher, environment: Mapping[str, str] | None = None
) -> Notice:
    verdict = run_tests(there, [watcher.test], environment)
    return Notice(
        watcher.test,
        _said(verdict, watcher.message),
        verdict.end is End.FAILED and watcher.message in verdict.message,
    )


def tests_without(mutations: Sequence[Mutation], jobs: int) -> Verdict:
    """Run the tests of mutations on a copy that has none of them."""
    tests = list(dict.fromkeys(test for each in mutations for test in each.tests))
    with workspace() as there:
        return run_tests(there, tests, jobs=jobs, seconds_max=BASELINE_SECONDS_MAX)


def seeds_without(mutations: Sequence[Mutation], jobs: int) -> Verdict:
    """Simulate the seeds of mutations on a copy that has none of them."""
    simulated = [each for each in mutations if each.simulation]
    kept = [part for each in simulated for part in _kept(each)]
    with workspace() as there:
        return simulate(there, [*kept, FIRST_SEEDS] if simulated else [], jobs=jobs)


def _kept(mutation: Mutation) -> list[range]:
    return [range(seed, seed + 1) for seed in mutation.seeds]


def _noticed_by_system(there: Workspace, mutation: Mutation) -> Notice:
    if mutation.scenario is not None:
        return _noticed(there, mutation.scenario, mutation.environment)
    verdict = simulate(there, [*_kept(mutation), *chunks_of(FIRST_SEEDS)])
    found = [each for each in mutation.invariants if each in verdict.message]
    by = "simulation" if verdict.seed is None else f"simulation, seed {verdict.seed}"
    said = found[0].value if found else _said(verdict)
    return Notice(by, said, verdict.end is End.FAILED and bool(found))


def _said(verdict: Verdict, wanted: str = "") -> str:
    """Return one line of a verdict: the one that was wanted, or else all that was said."""
    if verdict.end is End.PASSED:
        return "nothing was noticed"
    if verdict.end is End.BROKE:
        return f"no verdict: {verdict.message}"
    lines = verdict.message.splitlines()
    for line in lines:
        if wanted and wanted in line:
            return line.strip()[:SHOWN_CHARACTERS]
    return verdict.message if wanted not in verdict.message else lines[0]
