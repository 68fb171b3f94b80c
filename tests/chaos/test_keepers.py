"""A daemon dies together with everything that looks after its processes."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from chaos.checks import require_all
from chaos.fleet import Daemon, Fleet, all_pids, fleet, wait_until
from chaos.job import Job, Order
from chaos.sizes import FULL, size
from orchd.config.places import state_hash
from orchd.processes.marks import is_fork_server
from orchd.processes.table import marks_of
from support.commands import is_alive

DEATHS = size("DEATHS", small=2, full=50)
TASKS_AT_ONCE = 6
WORK_SECONDS = 3.0
TOML = f"""
[worker]
concurrency = {TASKS_AT_ONCE}
[retry]
max_crashes = 1000
"""


@pytest.mark.timeout(3600 if FULL else 120)
def test_what_nobody_looks_after_is_ended_by_the_next_daemon(
    home: Path, sqlite_state: str
) -> None:
    with fleet(home, sqlite_state, TOML) as there:
        job = Job(there)
        daemon = there.start()[0]
        job.submit([_order(number) for number in range(TASKS_AT_ONCE)])
        for _ in range(DEATHS):
            wait_until(lambda: len(_bodies(there)) >= 2 * TASKS_AT_ONCE, "all tasks run")
            bodies = _bodies(there)
            _kill_with_keepers(there, daemon)
            orphans = [pid for pid in bodies if is_alive(pid)]
            assert orphans, "they ended with the daemon, so nothing was left"
            daemon = there.start()[0]
            left = [pid for pid in orphans if is_alive(pid)]
            assert not left, f"{left} of a run is alive"
        there.state.wait_until_finished(60)
        job.close()
        there.stop()
        require_all(job)


def _order(number: int) -> Order:
    # A program's own child would die with it; what it left behind has to be found.
    return Order(id=f"t{number}", executor="probe", seconds=WORK_SECONDS, verb="astray")


def _bodies(there: Fleet) -> set[int]:
    return set(there.processes()) - set(_keepers(there))


def _keepers(there: Fleet) -> list[int]:
    """Return the fork server of the daemon at work, and the supervisors."""
    state = state_hash(there.database)
    return [
        pid
        for pid in all_pids()
        if any(is_fork_server(m) and m.startswith(state) for m in marks_of(pid))
    ]


def _kill_with_keepers(there: Fleet, daemon: Daemon) -> None:
    keepers = _keepers(there)
    # Stopped first, so that none of them sees another die.
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in (daemon.pid, *keepers):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
    daemon.kill()
