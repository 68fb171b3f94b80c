"""A frozen worker reports at the moment at which another takes its tasks over.

Both change the same rows, and each would begin where the other ends: the one goes by the
ids of the tasks, the other by when their bodies ended. Somebody else holds the row in the
middle, so that both commits are under way before either gets through. If each took the
rows as they come, both would have half of them and wait for the other half.
"""

from __future__ import annotations

import time
from pathlib import Path

import psycopg
import pytest

from chaos.checks import require_all
from chaos.fleet import Daemon, Fleet, fleet, wait_until
from chaos.job import Job, Order
from chaos.sizes import FULL, size
from support.eventstores import waiting_backends

ROUNDS = size("ROUNDS", small=1, full=20)
SLOTS = 10
WORK_SECONDS = 1.0
FINISHED_SECONDS = 30.0
TOML = f"""
[worker]
concurrency = {SLOTS}
lease = "1s"
[retry]
max_crashes = 100
"""


@pytest.mark.timeout(600 if FULL else 60)
def test_a_report_and_a_takeover_wait_for_each_other_in_one_order(
    home: Path, postgres_url: str
) -> None:
    with fleet(home, postgres_url, TOML) as there:
        there.start(2)
        job = Job(there)
        taken_over: set[str] = set()
        for number in range(ROUNDS):
            job.submit(_orders(number))
            taken_over |= _cross(there, there.alive[number % 2])
            there.state.wait_until_finished(FINISHED_SECONDS)
        job.close()
        there.stop()
        require_all(job)
        late = {event.stream for event in there.state.events("task.late_result_rejected")}
        assert late == {f"task-{task}" for task in taken_over}


def _orders(number: int) -> list[Order]:
    """Return as many tasks as two daemons run at once; the last one ends first."""
    return [
        Order(f"c{number:02}-{place:02}", "looped", WORK_SECONDS - 0.02 * place)
        for place in range(2 * SLOTS)
    ]


def _cross(there: Fleet, victim: Daemon) -> set[str]:
    """Freeze a daemon, let it report when another is about to take its tasks, and return
    those tasks."""
    wait_until(lambda: len(victim.runs_held()) == SLOTS, "its slots are full")
    tasks = sorted(held.task for held in victim.runs_held())
    wait_until(lambda: there.witness.runs().keys() >= set(tasks), "all bodies have begun")
    victim.freeze()
    with psycopg.connect(there.database) as holder:
        middle = tasks[len(tasks) // 2]
        holder.execute("SELECT FROM tasks WHERE id = %s FOR UPDATE", (middle,))
        # Every body ends meanwhile, so that they report all at once.
        time.sleep(WORK_SECONDS)
        waiting_backends(there.database, 1)
        victim.thaw()
        waiting_backends(there.database, 2)
    return set(tasks)
