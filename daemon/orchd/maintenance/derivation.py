"""What the tables that are derived from `tasks` should hold for a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from orchd.interfaces import TaskStatus
from orchd.ledger.rows import names_text
from orchd.maintenance.difference import Difference, compare
from orchd.maintenance.folding import Expected
from orchd.system import MICROSECONDS_PER_SECOND
from orchd.tasks.state import TaskState

COPIED = ("queue", "executor", "verifiers", "phase", "priority", "crashes")
"""Columns that both tables copy from the task's row."""
READY_COLUMNS = ("task_id", *COPIED, "ready_at")
TIMER_COLUMNS = ("task_id", *COPIED, "due_at")
RUNNING_COLUMNS = ("task_id", "worker", "cancel_requested")
ASIDE_COLUMNS = ("task_id", "status", "created_at")
CLOCK_TOLERANCE = 60 * MICROSECONDS_PER_SECOND
"""A timer counts as due this early: promotion goes by the clock of whoever claims."""

Row = dict[str, Any]
Clock = Callable[[], int]
"""Returns the database's time in microseconds."""


class Derived(NamedTuple):
    """The rows of one task in all these tables."""

    ready: Row | None = None
    timer: Row | None = None
    running: Row | None = None
    aside: Row | None = None


def derive(expected: Expected) -> Derived:
    """Return the rows that follow from a task's row, before any timer is promoted."""
    task = expected.task
    if task is None or task.status is TaskStatus.COMPLETED:
        return Derived()
    if task.status is TaskStatus.IN_PROGRESS:
        asked = task.cancel_requested
        return Derived(running=_row(RUNNING_COLUMNS, task.id, task.worker, asked))
    if task.status is not TaskStatus.PENDING:
        return Derived(aside=_aside(task))
    if task.waiting_reason is None:
        return Derived(ready=_copy(task) | {"ready_at": expected.ready_since})
    if task.waiting_until is None:
        return Derived(aside=_aside(task))
    return Derived(timer=_copy(task) | {"due_at": task.waiting_until})


def _row(names: tuple[str, ...], *values: Any) -> Row:
    return dict(zip(names, values, strict=True))


def _aside(task: TaskState) -> Row:
    return _row(ASIDE_COLUMNS, task.id, task.status.value, task.created_at)


def _copy(task: TaskState) -> Row:
    return {
        "task_id": task.id,
        "queue": task.queue,
        "executor": task.executor,
        "verifiers": names_text(task.verifiers),
        "phase": task.phase.value,
        "priority": task.priority,
        "crashes": task.crashes,
    }


def compare_derived(
    task_id: str, stored: Derived, expected: Expected, clock: Clock
) -> Iterator[Difference]:
    """Yield where the stored rows of one task differ from what follows from the log."""
    wanted = _promoted(derive(expected), stored, clock)
    yield from compare("ready", task_id, stored.ready, wanted.ready)
    yield from compare("timers", task_id, stored.timer, wanted.timer)


def compare_listed(
    task_id: str, stored: Derived, expected: Expected
) -> Iterator[Difference]:
    """Yield where a task is listed by its status, and should not be or otherwise."""
    wanted = derive(expected)
    yield from compare("running", task_id, stored.running, wanted.running)
    yield from compare("aside", task_id, stored.aside, wanted.aside)


def _promoted(wanted: Derived, stored: Derived, clock: Clock) -> Derived:
    # A due timer may already have become ready; nothing in the log tells when.
    if wanted.timer is None or stored.timer is not None or stored.ready is None:
        return wanted
    due_at = wanted.timer["due_at"]
    if due_at > clock() + CLOCK_TOLERANCE:
        return wanted
    ready = {k: v for k, v in wanted.timer.items() if k != "due_at"}
    return Derived(ready=ready | {"ready_at": due_at})
