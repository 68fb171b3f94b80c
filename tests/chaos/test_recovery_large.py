"""A daemon that starts on a large state is ready, and has claimed, within five seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.conftest import Figures
from chaos.fleet import Daemon, Fleet, OwnTime, fleet, wait_until
from chaos.job import Job, Order
from chaos.large_state import copier
from chaos.sizes import FULL, size

EVENTS = size("EVENTS", small=100_000, full=1_000_000)
LIVE = size("LIVE", small=10_000, full=100_000)
ORPHANS = size("ORPHANS", small=1_000, full=10_000)
EVENTS_OF_DONE = 3
EVENTS_OF_ORPHAN = 2
START_SECONDS = 5.0
LONG, SHORT = "300.000 ok", "0.010 ok"
TOML = """
[worker]
concurrency = 1
"""


def leave_examples(there: Fleet) -> None:
    """Leave a task that is done, one that runs and one that waits, and no daemon."""
    daemon, job = there.start()[0], Job(there)
    job.submit([Order("done", "looped", 0)])
    there.state.wait_until_finished(30)
    job.submit([Order("runs", "looped", 300), Order("waits", "looped", 300)])
    job.close()
    wait_until(daemon.runs_held, "a task runs")
    daemon.kill()
    statuses = {name: row["status"] for name, row in there.state.tasks().items()}
    assert sorted(statuses.values()) == ["completed", "in_progress", "pending"]


def multiply(there: Fleet) -> int:
    """Copy the examples until the state is large; return the log's last position."""
    rows = there.state.tasks()
    running = next(id for id, row in rows.items() if row["status"] == "in_progress")
    waiting = next(id for id, row in rows.items() if row["status"] == "pending")
    pending = LIVE - ORPHANS
    done = (EVENTS - pending - ORPHANS * EVENTS_OF_ORPHAN) // EVENTS_OF_DONE
    with copier(there.database) as copies:
        copies.copy("done", "d", done, old="0.000 ok", new="0.000 ok")
        copies.copy(waiting, "w", pending, old=LONG, new=SHORT)
        copies.copy(running, "o", ORPHANS, old=LONG, new=SHORT)
        return copies.finish()


def seconds_to_work(there: Fleet, last: int, figures: Figures) -> Daemon:
    """Start a daemon, and check after how long it is ready and has claimed."""
    daemon = there.launch()
    own = OwnTime(daemon.pid)
    query = "SELECT 1 FROM events WHERE position > ? AND type = 'task.started' LIMIT 1"
    wait_until(lambda: own.sample() and daemon.is_ready, "it listens", 60)
    wait_until(lambda: own.sample() and daemon.answers_ready(), "it is ready", 60)
    figures(ready_seconds=own.seconds, ready_by_the_clock_seconds=own.elapsed)
    assert own.seconds < START_SECONDS, daemon.log
    wait_until(
        lambda: own.sample() and there.state.query(query, (last,)), "it has claimed", 60
    )
    figures(claimed_seconds=own.seconds, claimed_by_the_clock_seconds=own.elapsed)
    assert own.seconds < START_SECONDS, daemon.log
    return daemon


def start_large(home: Path, database: str, figures: Figures) -> None:
    """Start on a large state and check how long everything takes."""
    with fleet(home, database, TOML) as there:
        leave_examples(there)
        worker = there.daemons[0].worker
        last = multiply(there)
        assert len(there.state.held_by(worker)) == ORPHANS + 1
        there.installation.environment["ORCHD_WORKER__CONCURRENCY"] = "16"
        figures(events=last)
        daemon = seconds_to_work(there, last, figures)
        wait_until(lambda: not there.state.held_by(worker), "no orphan is left", 120)
        assert daemon.stop() == 0
        if FULL:
            there.installation.succeed("replay", "--check", timeout_seconds=900)


@pytest.mark.timeout(3600 if FULL else 120)
def test_a_large_state_is_at_work_within_five_seconds_on_sqlite(
    home: Path, sqlite_state: str, figures: Figures
) -> None:
    start_large(home, sqlite_state, figures)


@pytest.mark.timeout(3600 if FULL else 120)
def test_a_large_state_is_at_work_within_five_seconds_on_postgresql(
    home: Path, postgres_url: str, figures: Figures
) -> None:
    start_large(home, postgres_url, figures)
