"""A queue's limit holds over three daemons that are killed again and again.

The witness says how many ran at once. It does not count a run whose worker was dead by
then: what is left of that is swept by the next daemon, and holds no place.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from chaos.checks import require_all
from chaos.conftest import Figures
from chaos.fleet import Fleet, fleet, wait_until
from chaos.job import Job, Order, healthy
from chaos.sizes import FULL, seeds, size

LIMIT = 4
TASKS = size("TASKS", small=70, full=1000)
KILLS = size("KILLS", small=2, full=40)
DAEMONS = 3
FOREVER = 2**63
TOML = f"""
[worker]
concurrency = 8
lease = "4s"
[queues.default]
concurrency = {LIMIT}
[retry]
max_crashes = 100
"""


class Span(NamedTuple):
    """When a run was at work under a living worker, in nanoseconds since boot."""

    start: int
    end: int


def spans(there: Fleet) -> Iterator[Span]:
    """Yield the spans of all runs, as the witness saw them."""
    deaths = {daemon.pid: daemon.died_at for daemon in there.daemons}
    pids = {
        event.stream.removeprefix("daemon-"): event.data["pid"]
        for event in there.state.events("daemon.started")
    }
    workers = {
        (event.stream.removeprefix("task-"), event.data["run"]): event.data["worker"]
        for event in there.state.events("task.started")
    }
    for task, runs in there.witness.runs().items():
        for run in runs:
            end = FOREVER if run.end is None else run.end.boottime
            death = deaths[pids[workers[task, run.start.run]]] or FOREVER
            if run.start.boottime < death:
                yield Span(run.start.boottime, min(end, death))


def most_at_once(found: list[Span]) -> int:
    """Return how many spans overlap at most."""
    changes = [(span.start, 1) for span in found] + [(span.end, -1) for span in found]
    most = now = 0
    # At the same nanosecond an end comes first.
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


def orders(chance: random.Random) -> list[Order]:
    """Return short tasks for both kinds of executor."""
    return [
        Order(
            f"q{number:04}",
            chance.choice(("looped", "probe")),
            chance.uniform(0.05, 0.25),
        )
        for number in range(TASKS)
    ]


def kill_and_replace(there: Fleet, chance: random.Random, number: int) -> None:
    """Kill a daemon with runs in flight when the job has come to this kill."""
    due = TASKS * (number + 1) // (KILLS + 2)
    wait_until(lambda: there.state.finished() >= due, "progress", 120)

    def busy() -> bool:
        return any(each.is_ready and each.runs_held() for each in there.alive)

    wait_until(busy, "a run is in flight")
    victims = [each for each in there.alive if each.is_ready and each.runs_held()]
    time.sleep(chance.uniform(0, 0.2))
    chance.choice(victims or there.alive).kill()
    there.launch()


@pytest.mark.timeout(3600 if FULL else 120)
@pytest.mark.parametrize("seed", seeds("queue_limit"))
def test_a_limit_holds_over_daemons_that_are_killed(
    home: Path, postgres_url: str, seed: int, figures: Figures
) -> None:
    chance = random.Random(seed)
    with fleet(home, postgres_url, TOML) as there:
        there.start(DAEMONS)
        job = Job(there)
        job.submit(orders(chance))
        for number in range(KILLS):
            kill_and_replace(there, chance, number)
        there.state.wait_until_finished(120)
        # The dead hold no places: as many as may run still do.
        job.submit(healthy(3 * LIMIT, seconds=0.5, prefix="last"))
        job.close()
        there.state.wait_until_finished(60)
        there.stop()
        found = list(spans(there))
        last = [run[-1] for task, run in there.witness.runs().items() if task[0] == "l"]
        ends = [(run.start.boottime, run.end.boottime) for run in last if run.end]
        figures(most_at_once=most_at_once(found), runs=len(found))
        assert most_at_once(found) <= LIMIT
        assert most_at_once([Span(*each) for each in ends]) == LIMIT
        require_all(job)
