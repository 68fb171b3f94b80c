"""What holds of every task at every instant: the rules that tests and doctor check."""

from __future__ import annotations

from collections.abc import Iterable

from orchd.interfaces import TaskStatus
from orchd.tasks import events as e
from orchd.tasks.state import Phase, TaskState


def state_violations(state: TaskState) -> list[str]:
    """Return every rule that a task's state breaks; empty for a legal state."""
    return [rule for rule, holds in _rules(state).items() if not holds]


def _rules(state: TaskState) -> dict[str, bool]:
    running = state.status is TaskStatus.IN_PROGRESS
    pending = state.status is TaskStatus.PENDING
    completed = state.status is TaskStatus.COMPLETED
    dead = state.status in (TaskStatus.FAILED, TaskStatus.DISCARDED)
    return {
        "attempts are 0 to max_attempts": 0 <= state.attempts <= state.max_attempts,
        "attempts are at most runs": state.attempts <= state.runs,
        "a token exactly in progress": (state.token is not None) == running,
        "a worker exactly in progress": (state.worker is not None) == running,
        "a start exactly in progress": (state.started_at is not None) == running,
        "a deadline only in progress": running or state.deadline is None,
        "alone only in progress": running or not state.alone,
        "a cancellation asked for only in progress": running or not state.cancel_requested,
        "finished exactly when terminal": (state.finished_at is not None)
        == state.is_terminal,
        "waits only when pending": pending or state.waiting_reason is None,
        "an instant or reference only when it waits": state.waiting_reason is not None
        or (state.waiting_until is None and state.waiting_ref is None),
        "completed with a result": not completed or state.has_result,
        "completed past every verifier": not completed
        or set(state.verifiers) <= set(state.passed_verifiers),
        "a result to verify": state.phase is Phase.EXECUTE or state.has_result,
        "no result before its execution": state.phase is Phase.VERIFY
        or state.is_terminal
        or not state.has_result,
        "a dead letter with its error": not dead or state.error_class is not None,
        "no counter below zero": min(
            state.runs, state.crashes, state.deferrals, state.verify_errors
        )
        >= 0,
    }


def run_violations(history: Iterable[e.TaskEvent]) -> list[str]:
    """Return how a task's events break the rule that each run ends exactly once.

    Runs are numbered 1, 2, …; each ends in one of completed, retried, failed, released
    and cancelled before the next begins. Only the last may still be going on.
    """
    found: list[str] = []
    runs, is_open = 0, False
    for event in history:
        if isinstance(event, e.TaskStarted):
            if is_open:
                found.append(f"run {event.run} began before run {runs} had ended")
            if event.run != runs + 1:
                found.append(f"run {event.run} follows run {runs}")
            runs, is_open = event.run, True
            continue
        ended = ended_run(event)
        if ended is None:
            continue
        if not is_open or ended != runs:
            found.append(f"run {ended} ended without going on")
        is_open = False
    return found


def ended_run(event: e.TaskEvent) -> int | None:
    """Return the number of the run that an event ends; None when it ends none."""
    if isinstance(
        event,
        e.TaskCompleted | e.TaskRetried | e.TaskFailed | e.TaskReleased | e.TaskCancelled,
    ):
        return event.run
    return None
