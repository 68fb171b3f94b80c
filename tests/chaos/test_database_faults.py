"""PostgreSQL crashes, backends are ended, connections are cut after COMMIT was sent.

Under load on three daemons, in any order: nothing is lost, nothing is accepted twice, and
every daemon goes on by itself.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from chaos.checks import require_all
from chaos.conftest import Figures
from chaos.fleet import Daemon, Fleet, wait_until
from chaos.job import Job, Order
from chaos.metrics import metric_faults
from chaos.proxied import through_a_proxy
from chaos.sizes import FULL, seeds, size
from support.postgres import PostgresServer
from support.postgres_cluster import Cluster
from support.postgres_proxy import PostgresProxy

RESTARTS = size("RESTARTS", small=1, full=100)
TERMINATIONS = size("TERMINATIONS", small=6, full=500)
CUTS = size("CUTS", small=6, full=300)
DAEMONS = 3
TASKS_LIVE_MIN = 60
RESUME_SECONDS = 10.0
TOML = """
[worker]
concurrency = 4
[retry]
max_crashes = 100
"""


class Faults:
    """Does to a database, and to the connections to it, what goes wrong in life."""

    def __init__(
        self, there: Fleet, cluster: Cluster, proxy: PostgresProxy, chance: random.Random
    ) -> None:
        self._there = there
        self._cluster = cluster
        self._proxy = proxy
        self._chance = chance
        self.slowest_seconds = 0.0

    def restart(self) -> None:
        """Crash the server, start it again, and wait for every daemon to go on."""
        self._cluster.crash()
        time.sleep(self._chance.uniform(0, 0.5))
        self._cluster.start()
        began = time.monotonic()
        before = self._completed()
        wait_until(lambda: self._progress(before), "all go on", RESUME_SECONDS)
        self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)

    def terminate(self) -> None:
        """End a backend that serves a daemon."""
        text = (
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'orchd'"
            " AND datname = current_database()"
        )
        pids = [row[0] for row in self._there.state.query(text)]
        if pids:
            victim = self._chance.choice(pids)
            self._there.state.query("SELECT pg_terminate_backend(?)", (victim,))

    def cut(self) -> None:
        """Cut a connection right after the end of a run was sent to be committed."""
        before = self._proxy.cuts
        self._proxy.cut_after(b"task.completed")
        wait_until(lambda: self._proxy.cuts > before, "a commit was cut off")

    def _completed(self) -> dict[str, int]:
        rows = self._there.state.query(
            "SELECT meta::json->>'worker', count(*) FROM events"
            " WHERE type = 'task.completed' GROUP BY 1"
        )
        return {str(worker): int(count) for worker, count in rows}

    def _progress(self, before: dict[str, int]) -> bool:
        now = self._completed()
        workers = [daemon.worker for daemon in self._there.alive]
        return all(now.get(each, 0) > before.get(each, 0) for each in workers)


class Feeder:
    """Keeps a job supplied with tasks until it is told to stop."""

    def __init__(self, job: Job, chance: random.Random) -> None:
        self._job = job
        self._chance = chance
        self._stopped = threading.Event()
        self._handed_in = 0

    def work(self) -> None:
        """Hand in tasks whenever there are few."""
        while not self._stopped.is_set():
            with suppress(psycopg.OperationalError):
                if self._job.fleet.state.live() < TASKS_LIVE_MIN:
                    self._job.submit([self._order() for _ in range(TASKS_LIVE_MIN)])
            self._stopped.wait(0.1)

    def _order(self) -> Order:
        self._handed_in += 1
        executor = self._chance.choices(("looped", "probe"), (9, 1))[0]
        seconds = self._chance.uniform(0, 0.4)
        return Order(f"t{self._handed_in:06}", executor, seconds)

    @contextmanager
    def in_background(self) -> Iterator[None]:
        """Let `work` go on in a thread of its own while the block lasts."""
        thread = threading.Thread(target=self.work, name="feeder", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join(60)
            self._job.close()


def shuffled(faults: Faults, chance: random.Random) -> list[Callable[[], None]]:
    """Return every fault as often as it is wanted, in any order."""
    wanted = [faults.restart] * RESTARTS
    wanted += [faults.terminate] * TERMINATIONS + [faults.cut] * CUTS
    chance.shuffle(wanted)
    return wanted


def require_going_on(there: Fleet, daemons: list[Daemon]) -> None:
    """Every daemon is the process it was, ready, and holds its lease."""
    for daemon in daemons:
        assert daemon.is_alive, daemon.log
        wait_until(lambda daemon=daemon: daemon.answers_ready(), "it is ready")
    faults = list(metric_faults(there, daemons))
    assert not faults, faults


@pytest.mark.timeout(7200 if FULL else 120)
@pytest.mark.parametrize("seed", seeds("database_faults"))
def test_faults_of_the_database_lose_nothing(
    home: Path,
    restartable: tuple[PostgresServer, Cluster],
    seed: int,
    figures: Figures,
) -> None:
    server, cluster = restartable
    chance = random.Random(seed)
    with through_a_proxy(home, server, TOML) as (there, proxy):
        daemons = there.start(DAEMONS)
        job = Job(there)
        faults = Faults(there, cluster, proxy, chance)
        with Feeder(job, chance).in_background():
            for fault in shuffled(faults, chance):
                fault()
                time.sleep(chance.uniform(0, 0.2))
        figures(slowest_return_seconds=faults.slowest_seconds)
        there.state.wait_until_finished(60)
        require_going_on(there, daemons)
        there.stop()
        require_all(job)
