"""Why a task is where it is, in plain sentences."""

from __future__ import annotations

from orchd.config.instants import format_instant
from orchd.interfaces import TaskStatus
from orchd.operations.surroundings import Obstacle, Surroundings, obstacle
from orchd.tasks.erasing import ERASED_HASH
from orchd.tasks.state import Phase, TaskState, WaitingReason

_WAITING = {
    WaitingReason.TIME: "It waits for its start time.",
    WaitingReason.BACKOFF: "It waits before the next attempt.",
    WaitingReason.DEPENDENCY: "It waits for {ref}.",
    WaitingReason.SIGNAL: "It waits for the signal {ref}.",
    WaitingReason.APPROVAL: "It waits for somebody's approval.",
    WaitingReason.BREAKER: (
        "The breaker of executor {ref} is open, because what the executor depends on "
        "failed again and again; no attempt is charged meanwhile."
    ),
    WaitingReason.BUDGET: "Its budget {ref} is used up.",
    WaitingReason.LIMIT: (
        "As many tasks of queue {ref} are in progress as its limit allows."
    ),
    WaitingReason.QUEUE_PAUSED: (
        "Queue {ref} is paused; resume it with: orchd queue resume {ref}"
    ),
    WaitingReason.EXECUTOR_MISSING: (
        "No live daemon has {ref}; configure it in one of them, or start one that has it."
    ),
}


def why(state: TaskState, around: Surroundings) -> list[str]:
    """Return the reasons for a task's state, the nearest first."""
    return [*_STORIES[state.status](state, around), *_history(state)]


def _pending(state: TaskState, around: Surroundings) -> list[str]:
    found = obstacle(state, around)
    work = "executed" if state.phase is Phase.EXECUTE else "verified, not executed again"
    if found is not None:
        return [f"The task is pending, to be {work}.", *_waiting(found)]
    if not around.live_workers:
        return [
            f"The task is ready to be {work}, but no daemon is running; "
            "start one with: orchd serve"
        ]
    return [f"The task is ready to be {work} as soon as a daemon has a free slot."]


def _waiting(found: Obstacle) -> list[str]:
    known = {reason.value for reason in WaitingReason}
    template = _WAITING[WaitingReason(found.reason)] if found.reason in known else None
    sentences = [(template or f"It waits: {found.reason}.").replace("{ref}", _ref(found))]
    if found.until is not None:
        sentences.append(f"It goes on at {format_instant(found.until)}.")
    return sentences


def _ref(found: Obstacle) -> str:
    if found.reason == WaitingReason.EXECUTOR_MISSING.value:
        named = found.ref or "it needs"
        return named if named.startswith("verifier ") else f"executor {named}"
    return found.ref or "of another"


def _in_progress(state: TaskState, around: Surroundings) -> list[str]:
    del around
    doing = "executes" if state.phase is Phase.EXECUTE else "verifies the result of"
    since = state.started_at or state.updated_at
    sentences = [
        f"Daemon {state.worker} {doing} it in run {state.runs} "
        f"(attempt {state.attempts} of {state.max_attempts}) "
        f"since {format_instant(since)}."
    ]
    if state.deadline is not None:
        sentences.append(f"It is stopped at {format_instant(state.deadline)}.")
    if state.alone:
        sentences.append("It runs alone, because earlier runs died with their daemon.")
    if state.cancel_requested:
        sentences.append("Its cancellation was requested and is on its way.")
    return sentences


def _completed(state: TaskState, around: Surroundings) -> list[str]:
    del around
    judged = ", ".join(state.verifiers) or "no verifier was asked for"
    return [f"It completed in run {state.runs}; verified by: {judged}."]


def _failed(state: TaskState, around: Surroundings) -> list[str]:
    del around
    erased = state.description_blob == ERASED_HASH
    return [
        f"It is a dead letter after {state.attempts} of {state.max_attempts} attempts: "
        f"{state.error_class}.",
        "What it was to do has been erased, so it cannot run again."
        if erased
        else f"Give it a new round with: orchd dlq requeue {state.id}",
    ]


def _cancelled(state: TaskState, around: Surroundings) -> list[str]:
    del around
    return [f"It was cancelled at {format_instant(state.updated_at)}."]


def _discarded(state: TaskState, around: Surroundings) -> list[str]:
    del around
    return [
        f"It failed ({state.error_class}) and was discarded "
        f"at {format_instant(state.updated_at)}."
    ]


_STORIES = {
    TaskStatus.PENDING: _pending,
    TaskStatus.IN_PROGRESS: _in_progress,
    TaskStatus.COMPLETED: _completed,
    TaskStatus.FAILED: _failed,
    TaskStatus.CANCELLED: _cancelled,
    TaskStatus.DISCARDED: _discarded,
}


def _history(state: TaskState) -> list[str]:
    if state.status is TaskStatus.COMPLETED:
        return []
    sentences = []
    if state.error:
        first_line = state.error.strip().partition("\n")[0]
        sentences.append(f"The last error ({state.error_class}) was: {first_line}")
    if state.feedback:
        first_line = state.feedback.strip().partition("\n")[0]
        sentences.append(f"The verifier's feedback was: {first_line}")
    if state.crashes:
        sentences.append(f"{state.crashes} of its runs were lost with their daemon.")
    return sentences
