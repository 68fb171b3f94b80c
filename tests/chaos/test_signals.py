"""SIGTERM at any moment ends a daemon in order and in time, and costs no attempt.

Also SIGINT, a second SIGTERM, and SIGHUP as often as anybody likes; while the daemon
starts, recovers, is idle or is busy.
"""

from __future__ import annotations

import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from chaos.checks import require_all
from chaos.conftest import Figures
from chaos.fleet import Daemon, Fleet, fleet, wait_until
from chaos.job import Job, Order
from chaos.sizes import FULL, seeds, size

# Half of the full number on each kind of database.
SIGNALS = size("SIGNALS", small=3, full=250)
TASKS_READY_MIN = 24
DRAIN_SECONDS = 0.8
GRACE_SECONDS = 0.4
MARGIN_SECONDS = 1.0
WORK_SECONDS_MAX = 1.2
RELOADS = 20
VERB_WEIGHTS = (3, 2, 5)
"""Of probes that ignore SIGTERM, that leave a process behind, and that do neither."""
TOML = f"""
[worker]
concurrency = 8
drain_timeout = "{DRAIN_SECONDS * 1000:.0f}ms"
kill_grace = "{GRACE_SECONDS * 1000:.0f}ms"
[retry]
max_crashes = 100
"""


class Signaller:
    """Starts daemons of a state one after the other, and ends each by a signal."""

    def __init__(self, there: Fleet, job: Job, chance: random.Random) -> None:
        self._there = there
        self._job = job
        self._chance = chance
        self._handed_in = 0
        self.slowest_seconds = 0.0

    def turn(self) -> None:
        """Start a daemon, end it at a random moment, and look at what it left."""
        daemon = self._there.launch()
        if self._chance.random() < 0.4:
            wait_until(lambda: catches(daemon, signal.SIGTERM), "signals are caught")
            time.sleep(self._chance.uniform(0, 1.0))
        else:
            daemon.wait_until_ready()
            self._top_up()
            time.sleep(self._chance.uniform(0, 1.5))
        if self._chance.random() < 0.1:
            daemon.kill()
            return
        self._end(daemon)
        left = self._there.processes()
        assert not left, f"{left} of a run is alive"
        if daemon.is_ready:
            assert self._there.state.counts()["in_progress"] == 0, daemon.log

    def _end(self, daemon: Daemon) -> None:
        kind = self._chance.choices(("term", "int", "twice", "reloads"), (5, 1.5, 1.5, 2))[
            0
        ]
        if kind == "reloads":
            self._reload(daemon)
        daemon.send(signal.SIGINT if kind == "int" else signal.SIGTERM)
        if kind == "twice":
            time.sleep(self._chance.uniform(0.1, 0.5))
            with suppress(ProcessLookupError):
                daemon.send(signal.SIGTERM)
        code, took = daemon.wait_and_time(60)
        self.slowest_seconds = max(self.slowest_seconds, took)
        assert code == 0, (kind, code, daemon.log)
        limit = DRAIN_SECONDS + GRACE_SECONDS + MARGIN_SECONDS
        assert took <= limit, (kind, took, daemon.log)

    def _reload(self, daemon: Daemon) -> None:
        for _ in range(RELOADS):
            daemon.send(signal.SIGHUP)
            time.sleep(self._chance.uniform(0, 0.01))

    def _top_up(self) -> None:
        missing = TASKS_READY_MIN - self._there.state.live()
        if missing > 0:
            self._job.submit([self._order() for _ in range(missing)])
            self._job.close()

    def _order(self) -> Order:
        self._handed_in += 1
        executor = self._chance.choices(("looped", "probe", "forked"), (5, 4, 1))[0]
        verbs = ("stubborn", "astray", "ok") if executor == "probe" else ("ok",)
        return Order(
            f"t{self._handed_in:06}",
            executor,
            self._chance.uniform(0, WORK_SECONDS_MAX),
            self._chance.choices(verbs, VERB_WEIGHTS[-len(verbs) :])[0],
        )


def catches(daemon: Daemon, number: int) -> bool:
    """Tell whether a process has a handler for a signal, as the kernel sees it."""
    for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def require_uncharged(there: Fleet) -> None:
    """No run that a signal ended was charged: each began as the first attempt."""
    attempts = {event.data["attempt"] for event in there.state.events("task.started")}
    assert attempts == {1}
    kinds = {event.type for event in there.state.events()}
    assert not kinds & {"task.retried", "task.failed"}
    reasons = {event.data["reason"] for event in there.state.events("task.released")}
    assert reasons <= {"drain", "worker_lost"}


def storm(home: Path, database: str, seed: int, figures: Figures) -> None:
    """End daemons by signals, let the work end, and check everything."""
    with fleet(home, database, TOML) as there:
        job = Job(there)
        signaller = Signaller(there, job, random.Random(seed))
        for _ in range(SIGNALS):
            signaller.turn()
        figures(slowest_end_seconds=signaller.slowest_seconds)
        there.start()
        there.state.wait_until_finished(60)
        there.stop()
        require_uncharged(there)
        require_all(job)


@pytest.mark.timeout(7200 if FULL else 120)
@pytest.mark.parametrize("seed", seeds("signals"))
def test_signals_at_any_moment_cost_nothing_on_sqlite(
    home: Path, sqlite_state: str, seed: int, figures: Figures
) -> None:
    storm(home, sqlite_state, seed, figures)


@pytest.mark.timeout(7200 if FULL else 120)
@pytest.mark.parametrize("seed", seeds("signals"))
def test_signals_at_any_moment_cost_nothing_on_postgresql(
    home: Path, postgres_url: str, seed: int, figures: Figures
) -> None:
    storm(home, postgres_url, seed, figures)
