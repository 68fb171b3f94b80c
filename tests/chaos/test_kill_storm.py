"""`kill -9` again and again in the middle of a bulk job loses nothing."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from chaos.checks import require_all
from chaos.fleet import Daemon, Fleet, fleet, wait_until
from chaos.job import Job, mixed
from chaos.sizes import FULL, duration_seconds, seeds, size

TASKS = size("TASKS", small=120, full=10_000)
KILLS = size("KILLS", small=3, full=200)
WORK_SECONDS_MAX = duration_seconds("WORK", small=0.5, full=2.0)
# Over all daemons.
CONCURRENCY = size("CONCURRENCY", small=12, full=96)
FINISH_SECONDS = 60
DELAY_SECONDS_MAX = 0.5
TWINS = 3
"""How many orders are handed in again under another id, with their idempotency key."""
EARLY_SHARE = 0.15
"""How many of the daemons that were killed are killed once more while they start."""
START_SECONDS = 1.5

# Nobody can tell a bystander that was alone when its daemon was killed from a task that
# kills its daemon. So many kills would hit thousands of healthy tasks three times; an
# operator whose machines fail that often raises the limit, and so does this storm.
TOML = """
[worker]
concurrency = {concurrency}
lease = "4s"
[retry]
max_crashes = 100
backoff = {{ initial = "100ms", max = "1s" }}
"""


class Killer:
    """Kills daemons of a fleet while a job is on, each with runs in flight."""

    def __init__(self, fleet: Fleet, chance: random.Random) -> None:
        self._fleet = fleet
        self._chance = chance

    def storm(self, kills: int, tasks: int) -> None:
        """Kill `kills` daemons, spread evenly over the job's progress."""
        for number in range(kills):
            due = tasks * number // (kills + 1)
            wait_until(lambda due=due: self._fleet.state.finished() >= due, "progress", 300)
            self._kill_one()

    def _kill_one(self) -> None:
        while True:
            victim: Daemon = wait_until(self._busy_daemon, "a run is in flight")
            time.sleep(self._chance.uniform(0, DELAY_SECONDS_MAX))
            victim.kill()
            found = victim.runs_held()
            self._replace()
            if found:
                return

    def _busy_daemon(self) -> Daemon | None:
        ready = [daemon for daemon in self._fleet.alive if daemon.is_ready]
        self._chance.shuffle(ready)
        busy = (daemon for daemon in ready if daemon.runs_held())
        return next(busy, None)

    def _replace(self) -> None:
        successor = self._fleet.launch()
        if self._chance.random() < EARLY_SHARE:
            time.sleep(self._chance.uniform(0, START_SECONDS))
            successor.kill()
            self._fleet.launch()


def storm(home: Path, database: str, seed: int, *, daemons: int) -> None:
    """Run a job under kills, let it end, and check everything."""
    chance = random.Random(seed)
    with fleet(home, database, TOML.format(concurrency=CONCURRENCY // daemons)) as there:
        first = there.start(daemons)
        job = Job(there, mixed(TASKS, chance, seconds_max=WORK_SECONDS_MAX))
        with job.in_background():
            wait_for_work(first)
            Killer(there, chance).storm(KILLS, TASKS)
        last_start = there.alive[-1]
        last_start.wait_until_ready()
        there.state.wait_until_finished(FINISH_SECONDS)
        assert job.accepted == job.orders.keys()
        twins = Job(there)
        for order in list(job.orders.values())[:TWINS]:
            twins.submit_twin(order)
        twins.close()
        there.stop()
        require_all(job)


def wait_for_work(daemons: list[Daemon]) -> None:
    """Wait until the state is there, so that it can be looked at."""
    for daemon in daemons:
        assert daemon.worker


@pytest.mark.timeout(7200 if FULL else 120)
@pytest.mark.parametrize("seed", seeds("kill_storm"))
def test_a_storm_of_kills_loses_nothing_on_sqlite(
    home: Path, sqlite_state: str, seed: int
) -> None:
    storm(home, sqlite_state, seed, daemons=1)


@pytest.mark.timeout(7200 if FULL else 120)
@pytest.mark.parametrize("seed", seeds("kill_storm"))
def test_a_storm_of_kills_loses_nothing_on_postgresql(
    home: Path, postgres_url: str, seed: int
) -> None:
    storm(home, postgres_url, seed, daemons=3)
