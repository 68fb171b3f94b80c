"""What tables `ready` and `timers` should hold for a task."""

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
CLOCK_TOLERANCE = 60 * MICROSECONDS_PER_SECOND
"""A timer counts as due this early: promotion goes by the clock of whoever claims."""

Row = dict[str, Any]
Clock = Callable[[], int]
"""Returns the database's time in microseconds."""


class Derived(NamedTuple):
    """The rows of one task in both tables."""

    ready: Row | None
    timer: Row | None


def derive(expected: Expected) -> Derived:
    """Return the rows that follow from a task's row, before any timer is promoted."""
    task = expected.task
    if task is None or task.status is not TaskStatus.PENDING:
        return Derived(None, None)
    if task.waiting_reason is None:
        return Derived(_copy(task) | {"ready_at": expected.ready_since}, None)
    if task.waiting_until is None:
        return Derived(None, None)
    return Derived(None, _copy(task) | {"due_at": task.waiting_until})


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


def _promoted(wanted: Derived, stored: Derived, clock: Clock) -> Derived:
    # A due timer may already have become ready; nothing in the log tells when.
    if wanted.timer is None or stored.timer is not None or stored.ready is None:
        return wanted
    due_at = wanted.timer["due_at"]
    if due_at > clock() + CLOCK_TOLERANCE:
        return wanted
    ready = {k: v for k, v in wanted.timer.items() if k != "due_at"}
    return Derived(ready | {"ready_at": due_at}, None)
