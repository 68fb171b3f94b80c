"""A task that takes its daemon down with it is cornered, and its bystanders complete.

It is released like any orphan at first; after `max_crashes` it runs alone, and the death of
a daemon that ran nothing else is what makes it a dead letter.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from chaos.checks import require_all
from chaos.conftest import Figures
from chaos.fleet import Fleet, fleet
from chaos.job import Job, Order, healthy
from chaos.sizes import FULL, size
from chaos.state import Event

BYSTANDERS = size("BYSTANDERS", small=6, full=200)
MAX_CRASHES = 2
CORNERED_SECONDS = 60 + BYSTANDERS
MEMORY_BYTES = 1024 * 1024 * 1024
LIMITED = ("prlimit", f"--as={MEMORY_BYTES}", "--")
TOML = f"""
[worker]
concurrency = 4
lease = "2s"
[retry]
max_crashes = {MAX_CRASHES}
"""


def work_until_finished(there: Fleet, wrapper: Sequence[str] = ()) -> int:
    """Start a daemon whenever there is none; return how many have died meanwhile."""
    deaths = 0
    deadline = time.monotonic() + CORNERED_SECONDS
    while there.state.live():
        said = [daemon.log[-2000:] for daemon in there.daemons[-2:]]
        assert time.monotonic() < deadline, (there.state.sample(), said)
        if not there.alive:
            deaths += 1
            there.launch(wrapper=wrapper)
        time.sleep(0.05)
    return deaths


def replace_all(there: Fleet) -> None:
    """Kill every daemon, and start one."""
    for daemon in there.alive:
        daemon.kill()
    there.launch()


def robbed(events: Sequence[Event], poison: Order) -> set[str]:
    """Return who died alone in a daemon whose memory the poison had taken and survived.

    The daemon blames what it ran last, and cannot know who took its memory before that.
    """
    started: dict[str, str] = {}
    drained: set[str] = set()
    dead: set[str] = set()
    for event in events:
        task = event.stream.removeprefix("task-")
        if event.type == "task.started":
            started[task] = event.data["worker"]
        elif task == poison.id and event.type in ("task.retried", "task.failed"):
            drained.add(started[task])
        elif event.type == "task.failed" and event.data["error_class"] == "crashed":
            dead |= {task} if started[task] in drained else set()
    return dead


def corner(
    home: Path,
    database: str,
    poison: Order,
    figures: Figures,
    *,
    wrapper: Sequence[str] = (),
    always_deadly: bool = True,
) -> None:
    """Run a poison task among healthy ones, and check that only it dies."""
    with fleet(home, database, TOML) as there:
        daemon = there.launch(wrapper=wrapper)
        daemon.wait_until_ready()
        job = Job(there)
        bystanders = healthy(BYSTANDERS, executor="probe", seconds=0.4)
        job.submit([poison, *bystanders])
        job.close()
        deaths = work_until_finished(there, wrapper)
        figures(daemons_lost=deaths)
        if not always_deadly:
            # The poison has taken all memory of the last daemon, and gives none back.
            replace_all(there)
        there.alive[0].wait_until_ready()
        there.stop()
        row = there.state.tasks()[poison.id]
        crashed = row["error_class"] == "crashed"
        assert row["status"] == "failed", row
        assert crashed or not always_deadly, row
        # A daemon may die, too, of what the poison took in a run that both survived; only
        # the log tells these apart.
        assert row["crashes"] == MAX_CRASHES + 1 or not crashed, row
        assert deaths == row["crashes"] or not always_deadly, row
        dead = {poison.id} if crashed else set()
        if not always_deadly:
            dead |= robbed(there.state.events(), poison)
        require_all(job, crashed=dead)


def test_only_who_died_where_the_poison_had_survived_was_robbed() -> None:
    poison = Order("poison", "looped", 0.1, "exhaust")

    def event(task: str, kind: str, **data: str) -> Event:
        return Event(1, f"task-{task}", 1, f"task.{kind}", data, {})

    began = [event("poison", "started", worker="w1"), event("a", "started", worker="w1")]
    died = [event("a", "failed", error_class="crashed")]
    assert robbed([*began, *died], poison) == set()
    survived = [event("poison", "retried", error_class="exception")]
    assert robbed([*began, *survived, *died], poison) == {"a"}
    elsewhere = [event("a", "started", worker="w2")]
    assert robbed([*began, *survived, *elsewhere, *died], poison) == set()
    failed = [event("a", "failed", error_class="exception")]
    assert robbed([*began, *survived, *failed], poison) == set()


@pytest.mark.timeout(600 if FULL else 120)
def test_a_task_that_kills_its_daemon_is_cornered_on_sqlite(
    home: Path, sqlite_state: str, figures: Figures
) -> None:
    poison = Order("poison", "probe", 0.1, "kill-daemon")
    corner(home, sqlite_state, poison, figures)


@pytest.mark.timeout(600 if FULL else 120)
def test_a_task_that_kills_its_daemon_is_cornered_on_postgresql(
    home: Path, postgres_url: str, figures: Figures
) -> None:
    poison = Order("poison", "probe", 0.1, "kill-daemon")
    corner(home, postgres_url, poison, figures)


@pytest.mark.timeout(600 if FULL else 120)
def test_a_task_that_takes_all_memory_of_its_daemon_is_cornered(
    home: Path, sqlite_state: str, figures: Figures
) -> None:
    """Who gets no memory first is chance: the daemon, which dies, or the task alone."""
    poison = Order("poison", "looped", 0.1, "exhaust")
    corner(home, sqlite_state, poison, figures, wrapper=LIMITED, always_deadly=False)
