"""What a frozen worker reports when it thaws is heard, audited and ignored.

A daemon is stopped with SIGSTOP for three leases while its runs are at work; their bodies
are processes of their own and end meanwhile. Others take the tasks over.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from chaos.checks import require_all
from chaos.fleet import Daemon, Fleet, fleet, wait_until
from chaos.job import Job, Order
from chaos.sizes import FULL, duration_seconds, seeds, size
from chaos.state import Held

FREEZES = size("FREEZES", small=2, full=100)
LEASE_SECONDS = duration_seconds("LEASE", small=1, full=2)
LEASES_FROZEN = 3
DAEMONS = 3
SLOTS = 4
REPORT_SECONDS = 20
TOML = f"""
[worker]
concurrency = {SLOTS}
lease = "{LEASE_SECONDS:g}s"
[retry]
max_crashes = 100
"""


class Cold(NamedTuple):
    """A frozen daemon, and what it held."""

    daemon: Daemon
    worker: str
    held: list[Held]


class Winter:
    """Freezes daemons of a fleet, one or two at a time, with runs at work."""

    def __init__(self, there: Fleet, job: Job, chance: random.Random) -> None:
        self._there = there
        self._job = job
        self._chance = chance
        self.freezes = 0

    def freeze(self) -> None:
        """Hand in work, freeze who does it, and see that its late results are rejected."""
        self._job.submit(self._orders())
        count = min(self._chance.choice((1, 2)), FREEZES - self.freezes)
        victims = [self._busy(daemon) for daemon in self._chosen(count)]
        frozen = [self._frozen(daemon) for daemon in victims]
        time.sleep(LEASES_FROZEN * LEASE_SECONDS)
        for cold in frozen:
            # A machine under load may take a little longer to notice.
            wait_until(lambda cold=cold: not self._holds(cold), "others took over")
        for daemon in victims:
            daemon.thaw()
        for cold in frozen:
            self._require_rejected(cold)
        self.freezes += count
        self._there.state.wait_until_finished(30)

    def _orders(self) -> list[Order]:
        seconds = [
            self._chance.uniform(1, LEASES_FROZEN - 0.5) * LEASE_SECONDS
            for _ in range(DAEMONS * SLOTS)
        ]
        return [
            Order(f"f{self.freezes:03}-{number:02}", "probe", length)
            for number, length in enumerate(seconds)
        ]

    def _chosen(self, count: int) -> list[Daemon]:
        return self._chance.sample(self._there.alive, count)

    def _busy(self, daemon: Daemon) -> Daemon:
        wait_until(lambda: self._begun(daemon), "its runs have begun")
        return daemon

    def _begun(self, daemon: Daemon) -> bool:
        held = {(each.task, each.run) for each in self._there.state.held_by(daemon.worker)}
        lines = self._there.witness.lines()
        return bool(held) and held <= {(line.task, line.run) for line in lines}

    def _frozen(self, daemon: Daemon) -> Cold:
        worker = daemon.worker
        daemon.freeze()
        # A commit that it had sent is still carried out, and nothing more after that.
        held, before = self._there.state.held_by(worker), None
        while held != before:
            time.sleep(0.1)
            held, before = self._there.state.held_by(worker), held
        assert held, "the freeze hit no run"
        return Cold(daemon, worker, held)

    def _holds(self, cold: Cold) -> list[Held]:
        return self._there.state.held_by(cold.worker)

    def _require_rejected(self, cold: Cold) -> None:
        """Wait until every run that was frozen has been heard and rejected."""
        wanted = {(f"task-{each.task}", each.token) for each in cold.held}
        wait_until(lambda: wanted <= self._rejected(), "late results", REPORT_SECONDS)
        assert "lost its lease" in cold.daemon.log, cold.daemon.log

    def _rejected(self) -> set[tuple[str, int]]:
        return {
            (event.stream, event.data["token"])
            for event in self._there.state.events("task.late_result_rejected")
        }


@pytest.mark.timeout(7200 if FULL else 120)
@pytest.mark.parametrize("seed", seeds("freezes"))
def test_results_of_a_frozen_worker_are_rejected_and_audited(
    home: Path, postgres_url: str, seed: int
) -> None:
    with fleet(home, postgres_url, TOML) as there:
        there.start(DAEMONS)
        job = Job(there)
        winter = Winter(there, job, random.Random(seed))
        while winter.freezes < FREEZES:
            winter.freeze()
        job.close()
        there.stop()
        require_all(job)
