"""After `kill -9` the first orphan runs again soon, here and on another machine."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from chaos.checks import require_all
from chaos.conftest import Figures
from chaos.fleet import Daemon, Fleet, OwnTime, fleet, wait_until
from chaos.job import Job, healthy
from chaos.sizes import FULL, duration_seconds, size

RESTARTS = size("RESTARTS", small=2, full=20)
LEASE_SECONDS = duration_seconds("LEASE", small=1, full=4)
AGAIN_HERE_SECONDS = 2.0
AGAIN_ELSEWHERE_SECONDS = LEASE_SECONDS + 5
SPAWN_WAIT_SECONDS = 30
WORK_SECONDS = 1.0
TOML = f"""
[worker]
concurrency = 4
lease = "{LEASE_SECONDS:g}s"
[retry]
max_crashes = 100
"""
IN_USER_NAMESPACE = () if os.geteuid() == 0 else ("--user", "--map-root-user")
ELSEWHERE = (
    *("unshare", "--uts", *IN_USER_NAMESPACE, "sh", "-c"),
    *('hostname another-machine && exec "$@"', "sh"),
)
"""Starts a daemon that takes itself for one on another machine."""


def start_again(there: Fleet, *, wrapper: tuple[str, ...] = ()) -> float:
    """Start a daemon; return after how many seconds an orphan runs again, see `OwnTime`."""
    spawned = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    own = OwnTime(there.launch(wrapper=wrapper).pid)

    def again() -> bool:
        own.sample()
        lines = there.witness.lines()
        return any(each.kind == "start" and each.boottime > spawned for each in lines)

    wait_until(again, "an orphan runs again", SPAWN_WAIT_SECONDS)
    return own.seconds


def kill_with_orphans(there: Fleet, daemon: Daemon) -> None:
    """Kill a daemon whose runs have begun and not ended."""
    wait_until(daemon.runs_held, "a run is on record")
    worker = daemon.worker
    wait_until(lambda: begun(there, daemon), "a run began")
    daemon.kill()
    assert there.state.held_by(worker), "there is no orphan"


def begun(there: Fleet, daemon: Daemon) -> bool:
    """Tell whether every run that a daemon holds has begun."""
    seen = {(line.task, line.run) for line in there.witness.lines()}
    held = {(each.task, each.run) for each in daemon.runs_held()}
    return bool(held) and held <= seen


def recover(home: Path, database: str, figures: Figures) -> None:
    """Kill and start again, several times, and check how soon the work goes on."""
    with fleet(home, database, TOML) as there:
        job, daemon = Job(there), there.start()[0]
        took = []
        for number in range(RESTARTS):
            for executor in ("probe", "looped"):
                prefix = f"{executor}{number}-"
                job.submit(
                    healthy(2, executor=executor, seconds=WORK_SECONDS, prefix=prefix)
                )
            job.close()
            kill_with_orphans(there, daemon)
            took.append(start_again(there))
            daemon = there.alive[0]
            daemon.wait_until_ready()
        figures(median_seconds=sorted(took)[len(took) // 2], longest_seconds=max(took))
        assert max(took) < AGAIN_HERE_SECONDS, took
        there.state.wait_until_finished(60)
        there.stop()
        require_all(job)


@pytest.mark.timeout(1800 if FULL else 120)
def test_an_orphan_runs_again_within_two_seconds_on_sqlite(
    home: Path, sqlite_state: str, figures: Figures
) -> None:
    recover(home, sqlite_state, figures)


@pytest.mark.timeout(1800 if FULL else 120)
def test_an_orphan_runs_again_within_two_seconds_on_the_same_machine(
    home: Path, postgres_url: str, figures: Figures
) -> None:
    recover(home, postgres_url, figures)


@pytest.mark.timeout(1800 if FULL else 120)
def test_an_orphan_runs_again_on_another_machine_after_the_lease(
    home: Path, postgres_url: str, figures: Figures
) -> None:
    """The other one cannot see that the process is gone, so it waits for the lease."""
    with fleet(home, postgres_url, TOML) as there:
        job, daemon = Job(there), there.start()[0]
        job.submit(healthy(2, executor="probe", seconds=WORK_SECONDS))
        job.close()
        kill_with_orphans(there, daemon)
        took = start_again(there, wrapper=ELSEWHERE)
        figures(lease_seconds=LEASE_SECONDS, again_seconds=took)
        assert took < AGAIN_ELSEWHERE_SECONDS
        hosts = {event.data["host"] for event in there.state.events("daemon.started")}
        there.state.wait_until_finished(60)
        there.stop()
        require_all(job)
        assert "another-machine" in hosts
