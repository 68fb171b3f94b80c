"""What an event changes: the folding half of a task's state machine.

`evolve` is total: whatever `decide` returned, and whatever a log holds after a submission,
can be folded, in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from orchd.interfaces import TaskStatus
from orchd.tasks import events as e
from orchd.tasks.failures import ErrorClass
from orchd.tasks.state import Phase, ReleaseReason, TaskState, WaitingReason


class BrokenStream(Exception):
    """A stream does not begin with `task.submitted`, so it has no state."""


class Stamped(NamedTuple):
    """An event with its place in the stream and its meta: what `evolve` folds."""

    task_id: str
    version: int
    event: e.TaskEvent
    meta: e.EventMeta


def evolve(state: TaskState | None, stamped: Stamped) -> TaskState:
    """Return the state after one more event.

    Raises:
        BrokenStream: the first event of the stream is no submission.
    """
    if state is None:
        if not isinstance(stamped.event, e.TaskSubmitted):
            raise BrokenStream(f"stream of task {stamped.task_id} has no submission")
        return _submitted(stamped, stamped.event)
    changes = _CHANGES[type(stamped.event)](state, stamped.event, stamped.meta.at)
    changed = {"version": stamped.version, "updated_at": stamped.meta.at} | changes
    return msgspec.structs.replace(state, **changed)


def fold(history: Iterable[Stamped]) -> TaskState | None:
    """Return the state that a whole stream adds up to; None for an empty one."""
    state: TaskState | None = None
    for stamped in history:
        state = evolve(state, stamped)
    return state


def _submitted(stamped: Stamped, event: e.TaskSubmitted) -> TaskState:
    at = stamped.meta.at
    delayed = event.run_at is not None and event.run_at > at
    description, description_blob = split_body(event.description)
    payload, payload_blob = split_payload(event.payload)
    return TaskState(
        id=stamped.task_id,
        version=stamped.version,
        namespace=event.namespace,
        status=TaskStatus.PENDING,
        phase=Phase.EXECUTE,
        queue=event.queue,
        priority=event.priority,
        lane=event.lane,
        executor=event.executor,
        verifiers=event.verifiers,
        description=description,
        description_blob=description_blob,
        payload=payload,
        payload_blob=payload_blob,
        metadata=_raw_text(event.metadata),
        labels=_labels_text(event.labels),
        parent_id=event.parent_id,
        idempotency_key=event.idempotency_key,
        body_hash=event.body_hash,
        traceparent=stamped.meta.traceparent,
        max_attempts=event.max_attempts,
        execute_timeout_seconds=event.execute_timeout_seconds,
        verify_timeout_seconds=event.verify_timeout_seconds,
        created_at=at,
        updated_at=at,
        run_at=at if event.run_at is None else event.run_at,
        waiting_reason=WaitingReason.TIME.value if delayed else None,
        waiting_until=event.run_at if delayed else None,
    )


def split_body(body: e.Body) -> tuple[str | None, str | None]:
    """Return a body as (inline text, blob hash); one of the two is None."""
    if isinstance(body, e.BlobReference):
        return None, body.hash
    return body, None


def split_payload(payload: msgspec.Raw | None) -> tuple[str | None, str | None]:
    """Return a payload as (inline JSON text, blob hash); both None without one.

    A payload of `null` is none: the log cannot tell the two apart.
    """
    text = _raw_text(payload)
    if text is None or text == "null":
        return None, None
    reference = e.read_reference(text)
    return (text, None) if reference is None else (None, reference.hash)


def _raw_text(raw: msgspec.Raw | None) -> str | None:
    return None if raw is None else bytes(raw).decode()


def _labels_text(labels: dict[str, str]) -> str | None:
    if not labels:
        return None
    return msgspec.json.encode(labels, order="sorted").decode()


Changes = dict[str, Any]

_NOT_WAITING: Changes = {
    "waiting_reason": None,
    "waiting_until": None,
    "waiting_ref": None,
}
_NOT_RUNNING: Changes = {
    "token": None,
    "worker": None,
    "alone": False,
    "started_at": None,
    "deadline": None,
    "cancel_requested": False,
}
_NO_RESULT: Changes = {
    "result": None,
    "result_blob": None,
    "result_metadata": None,
    "confidence": None,
    "passed_verifiers": (),
}
_NO_ERROR: Changes = {"error": None, "error_class": None, "fingerprint": None}


def _on_started(state: TaskState, event: e.TaskStarted, at: int) -> Changes:
    return _NOT_WAITING | {
        "status": TaskStatus.IN_PROGRESS,
        # A phase that a newer release added reads as the one that loses nothing.
        "phase": Phase.VERIFY if event.phase == Phase.VERIFY else Phase.EXECUTE,
        "runs": event.run,
        "attempts": event.attempt,
        "token": event.token,
        "worker": event.worker,
        "alone": event.alone,
        "started_at": at,
        "deadline": event.deadline,
        "cancel_requested": False,
    }


def _on_executed(state: TaskState, event: e.TaskExecuted, at: int) -> Changes:
    text, blob = split_body(event.result)
    return {
        "phase": Phase.VERIFY,
        "result": text,
        "result_blob": blob,
        "result_metadata": _raw_text(event.result_metadata),
        "confidence": event.confidence,
        "passed_verifiers": (),
        "verify_errors": 0,
        "deadline": event.deadline,
    }


def _on_verified(state: TaskState, event: e.TaskVerified, at: int) -> Changes:
    if not event.passed:
        return {"feedback": event.feedback}
    return {
        "passed_verifiers": (*state.passed_verifiers, event.verifier),
        "verify_errors": 0,
    }


def _on_retried(state: TaskState, event: e.TaskRetried, at: int) -> Changes:
    delayed = event.run_at > at
    changes = (
        _NOT_RUNNING
        | _NOT_WAITING
        | _NO_RESULT
        | {
            "status": TaskStatus.PENDING,
            "phase": Phase.EXECUTE,
            "verify_errors": 0,
            "run_at": event.run_at,
            "waiting_reason": WaitingReason.BACKOFF.value if delayed else None,
            "waiting_until": event.run_at if delayed else None,
            "error": event.error,
            "error_class": event.error_class,
            "fingerprint": event.fingerprint,
        }
    )
    return _with_feedback(changes, event.feedback)


def _with_feedback(changes: Changes, feedback: str | None) -> Changes:
    # Without feedback the last verdict stays: it still tells how to do better.
    return changes if feedback is None else changes | {"feedback": feedback}


def _on_completed(state: TaskState, event: e.TaskCompleted, at: int) -> Changes:
    changes = (
        _NOT_RUNNING
        | _NOT_WAITING
        | _NO_ERROR
        | {
            "status": TaskStatus.COMPLETED,
            "passed_verifiers": (*state.passed_verifiers, *event.verifiers),
            "finished_at": at,
        }
    )
    if event.result is None:
        return changes
    text, blob = split_body(event.result)
    return changes | {
        "result": text,
        "result_blob": blob,
        "result_metadata": _raw_text(event.result_metadata),
        "confidence": event.confidence,
    }


def _on_failed(state: TaskState, event: e.TaskFailed, at: int) -> Changes:
    changes = (_NOT_RUNNING | _NOT_WAITING) | {
        "status": TaskStatus.FAILED,
        "error": event.error,
        "error_class": event.error_class,
        "fingerprint": event.fingerprint,
        "finished_at": at,
    }
    if event.error_class == ErrorClass.CRASHED:
        changes["crashes"] = state.crashes + 1
    return _with_feedback(changes, event.feedback)


_WAITING_FOR: dict[str, WaitingReason] = {
    ReleaseReason.VERIFIER_ERROR: WaitingReason.BACKOFF,
    ReleaseReason.LATER: WaitingReason.TIME,
    ReleaseReason.BREAKER: WaitingReason.BREAKER,
    ReleaseReason.BUDGET: WaitingReason.BUDGET,
    ReleaseReason.EXECUTOR_MISSING: WaitingReason.EXECUTOR_MISSING,
}


def _on_released(state: TaskState, event: e.TaskReleased, at: int) -> Changes:
    changes = _NOT_RUNNING | _waiting_after(event, at) | {"status": TaskStatus.PENDING}
    if state.phase is Phase.EXECUTE and state.status is TaskStatus.IN_PROGRESS:
        # The executor's result was not recorded, so the attempt was not used up.
        changes["attempts"] = max(0, state.attempts - 1)
    if event.crashed:
        changes["crashes"] = state.crashes + 1
    if event.reason == ReleaseReason.LATER:
        changes["deferrals"] = state.deferrals + 1
    if event.reason == ReleaseReason.VERIFIER_ERROR:
        changes["verify_errors"] = state.verify_errors + 1
    if event.error_class is not None:
        changes |= {
            "error_class": event.error_class,
            "error": event.error,
            "fingerprint": None,
        }
    return changes


def _waiting_after(event: e.TaskReleased, at: int) -> Changes:
    if event.until is None or event.until <= at:
        return _NOT_WAITING
    # A reason that a newer release added still says until when.
    reason = _WAITING_FOR.get(event.reason, WaitingReason.TIME)
    return {
        "waiting_reason": reason.value,
        "waiting_until": event.until,
        "waiting_ref": event.ref,
    }


def _on_cancel_requested(
    state: TaskState, event: e.TaskCancelRequested, at: int
) -> Changes:
    return {"cancel_requested": True}


def _on_cancelled(state: TaskState, event: e.TaskCancelled, at: int) -> Changes:
    return (
        _NOT_RUNNING
        | _NOT_WAITING
        | {
            "status": TaskStatus.CANCELLED,
            "finished_at": at,
        }
    )


def _on_requeued(state: TaskState, event: e.TaskRequeued, at: int) -> Changes:
    kept: Changes = {} if event.verify_only else _NO_RESULT
    return (
        _NOT_RUNNING
        | _NOT_WAITING
        | _NO_ERROR
        | kept
        | {
            "status": TaskStatus.PENDING,
            "phase": Phase.VERIFY if event.verify_only else Phase.EXECUTE,
            "round": event.round,
            "attempts": 0,
            "crashes": 0,
            "deferrals": 0,
            "verify_errors": 0,
            "passed_verifiers": (),
            "run_at": at,
            "finished_at": None,
        }
    )


def _on_discarded(state: TaskState, event: e.TaskDiscarded, at: int) -> Changes:
    return {"status": TaskStatus.DISCARDED, "finished_at": at}


def _on_late_result(state: TaskState, event: e.TaskLateResultRejected, at: int) -> Changes:
    # To the task nothing happened, so a dead letter does not get younger by it.
    return {"updated_at": state.updated_at}


_CHANGES: dict[type[Any], Callable[[TaskState, Any, int], Changes]] = {
    e.TaskSubmitted: lambda state, event, at: {},
    e.TaskStarted: _on_started,
    e.TaskExecuted: _on_executed,
    e.TaskVerified: _on_verified,
    e.TaskRetried: _on_retried,
    e.TaskCompleted: _on_completed,
    e.TaskFailed: _on_failed,
    e.TaskReleased: _on_released,
    e.TaskCancelRequested: _on_cancel_requested,
    e.TaskCancelled: _on_cancelled,
    e.TaskRequeued: _on_requeued,
    e.TaskDiscarded: _on_discarded,
    e.TaskLateResultRejected: _on_late_result,
}
