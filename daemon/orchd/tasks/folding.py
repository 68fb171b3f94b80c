"""What an event changes: the folding half of a task's state machine.

`evolve` is total: whatever `decide` returned, and whatever a log holds after a submission,
can be folded, in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import astuple

from orchd.interfaces import TaskStatus
from orchd.tasks import events as e
from orchd.tasks.failures import ErrorClass
from orchd.tasks.state import (
    Phase,
    ReleaseReason,
    TaskDraft,
    TaskState,
    WaitingReason,
)

# Looking up a member of an enumeration takes twice as long as setting a field to it.
_PENDING = TaskStatus.PENDING
_IN_PROGRESS = TaskStatus.IN_PROGRESS
_COMPLETED = TaskStatus.COMPLETED
_EXECUTE = Phase.EXECUTE
_VERIFY = Phase.VERIFY


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
    task_id, version, event, meta = stamped
    if state is None:
        draft = _begun(task_id, version, event, meta)
    else:
        draft = TaskDraft(*astuple(state))
        _add(draft, version, event, meta)
    return TaskState(*astuple(draft))


def fold(history: Iterable[Stamped]) -> TaskState | None:
    """Return the state that a whole stream adds up to; None for an empty one."""
    draft = fold_draft(history)
    return None if draft is None else TaskState(*astuple(draft))


def fold_draft(
    history: Iterable[tuple[str, int, e.TaskEvent, e.EventMeta]],
) -> TaskDraft | None:
    """Do what `fold` does for whoever folds a whole log and needs no state to keep.

    Args:
        history: what `Stamped` holds of each event.

    Raises:
        BrokenStream: as `evolve`.
    """
    draft: TaskDraft | None = None
    for task_id, version, event, meta in history:
        if draft is None:
            draft = _begun(task_id, version, event, meta)
        else:
            _add(draft, version, event, meta)
    return draft


def _add(draft: TaskDraft, version: int, event: e.TaskEvent, meta: e.EventMeta) -> None:
    _CHANGES[type(event)](draft, event, meta.at)
    draft.version = version
    if not isinstance(event, e.TaskLateResultRejected):
        # To the task nothing happened, so a dead letter does not get younger by it.
        draft.updated_at = meta.at


def _begun(task_id: str, version: int, event: e.TaskEvent, meta: e.EventMeta) -> TaskDraft:
    if not isinstance(event, e.TaskSubmitted):
        raise BrokenStream(f"stream of task {task_id} has no submission")
    at = meta.at
    run_at = at if event.run_at is None else event.run_at
    description, description_blob = split_body(event.description)
    payload, payload_blob = split_payload(event.payload)
    draft = TaskDraft(
        # In the order of the fields: with their names it takes twice as long.
        task_id,
        version,
        event.namespace,
        _PENDING,
        _EXECUTE,
        event.queue,
        event.priority,
        event.lane,
        event.executor,
        event.verifiers,
        description,
        description_blob,
        payload,
        payload_blob,
        raw_text(event.metadata),
        labels_text(event.labels),
        event.parent_id,
        event.idempotency_key,
        event.body_hash,
        meta.traceparent,
        event.max_attempts,
        event.execute_timeout_seconds,
        event.verify_timeout_seconds,
        at,
        at,
        run_at,
    )
    if run_at > at:
        draft.waiting_reason = WaitingReason.TIME.value
        draft.waiting_until = run_at
    return draft


def split_body(body: e.Body) -> tuple[str | None, str | None]:
    """Return a body as (inline text, blob hash); one of the two is None."""
    if isinstance(body, e.BlobReference):
        return None, body.hash
    return body, None


def split_payload(payload: msgspec.Raw | None) -> tuple[str | None, str | None]:
    """Return a payload as (inline JSON text, blob hash); both None without one.

    A payload of `null` is none: the log cannot tell the two apart.
    """
    text = raw_text(payload)
    if text is None or text == "null":
        return None, None
    reference = e.read_reference(text)
    return (text, None) if reference is None else (None, reference.hash)


def raw_text(raw: msgspec.Raw | None) -> str | None:
    """Return the JSON text of a value as a row holds it."""
    return None if raw is None else str(raw, "utf-8")


def labels_text(labels: dict[str, str]) -> str | None:
    """Return labels as the JSON text that a row holds; None without any."""
    if not labels:
        return None
    return msgspec.json.encode(labels, order="sorted").decode()


# The fields of one group are set together, so that the first tells whether any is.


def _stop_waiting(draft: TaskDraft) -> None:
    if draft.waiting_reason is not None:
        draft.waiting_reason = draft.waiting_until = draft.waiting_ref = None


def _stop_running(draft: TaskDraft) -> None:
    draft.token = draft.worker = draft.started_at = draft.deadline = None
    draft.alone = draft.cancel_requested = False


def _drop_result(draft: TaskDraft) -> None:
    draft.result = draft.result_blob = draft.result_metadata = None
    draft.confidence = None
    draft.passed_verifiers = ()


def _drop_error(draft: TaskDraft) -> None:
    if draft.error_class is not None:
        draft.error = draft.error_class = draft.fingerprint = None


def _on_submitted(draft: TaskDraft, event: e.TaskSubmitted, at: int) -> None:
    # A stream has one submission, and that one began the draft.
    return


def _on_started(draft: TaskDraft, event: e.TaskStarted, at: int) -> None:
    _stop_waiting(draft)
    draft.status = _IN_PROGRESS
    # A phase that a newer release added reads as the one that loses nothing.
    draft.phase = _VERIFY if event.phase == _VERIFY else _EXECUTE
    draft.runs = event.run
    draft.attempts = event.attempt
    draft.token = event.token
    draft.worker = event.worker
    draft.alone = event.alone
    draft.started_at = at
    draft.deadline = event.deadline
    draft.cancel_requested = False


def _on_executed(draft: TaskDraft, event: e.TaskExecuted, at: int) -> None:
    draft.phase = _VERIFY
    draft.result, draft.result_blob = split_body(event.result)
    draft.result_metadata = raw_text(event.result_metadata)
    draft.confidence = event.confidence
    draft.passed_verifiers = ()
    draft.verify_errors = 0
    draft.deadline = event.deadline


def _on_verified(draft: TaskDraft, event: e.TaskVerified, at: int) -> None:
    if not event.passed:
        draft.feedback = event.feedback
        return
    draft.passed_verifiers = (*draft.passed_verifiers, event.verifier)
    draft.verify_errors = 0


def _on_retried(draft: TaskDraft, event: e.TaskRetried, at: int) -> None:
    _stop_running(draft)
    _stop_waiting(draft)
    _drop_result(draft)
    draft.status = _PENDING
    draft.phase = _EXECUTE
    draft.verify_errors = 0
    draft.run_at = event.run_at
    if event.run_at > at:
        draft.waiting_reason = WaitingReason.BACKOFF.value
        draft.waiting_until = event.run_at
    draft.error = event.error
    draft.error_class = event.error_class
    draft.fingerprint = event.fingerprint
    _keep_feedback(draft, event.feedback)


def _keep_feedback(draft: TaskDraft, feedback: str | None) -> None:
    # Without feedback the last verdict stays: it still tells how to do better.
    if feedback is not None:
        draft.feedback = feedback


def _on_completed(draft: TaskDraft, event: e.TaskCompleted, at: int) -> None:
    _stop_running(draft)
    _stop_waiting(draft)
    _drop_error(draft)
    draft.status = _COMPLETED
    draft.passed_verifiers = (*draft.passed_verifiers, *event.verifiers)
    draft.finished_at = at
    if event.result is not None:
        draft.result, draft.result_blob = split_body(event.result)
        draft.result_metadata = raw_text(event.result_metadata)
        draft.confidence = event.confidence


def _on_failed(draft: TaskDraft, event: e.TaskFailed, at: int) -> None:
    _stop_running(draft)
    _stop_waiting(draft)
    draft.status = TaskStatus.FAILED
    draft.error = event.error
    draft.error_class = event.error_class
    draft.fingerprint = event.fingerprint
    draft.finished_at = at
    if event.error_class == ErrorClass.CRASHED:
        draft.crashes += 1
    _keep_feedback(draft, event.feedback)


_WAITING_FOR: dict[str, WaitingReason] = {
    ReleaseReason.VERIFIER_ERROR: WaitingReason.BACKOFF,
    ReleaseReason.LATER: WaitingReason.TIME,
    ReleaseReason.BREAKER: WaitingReason.BREAKER,
    ReleaseReason.BUDGET: WaitingReason.BUDGET,
    ReleaseReason.EXECUTOR_MISSING: WaitingReason.EXECUTOR_MISSING,
}


def _on_released(draft: TaskDraft, event: e.TaskReleased, at: int) -> None:
    if draft.phase is _EXECUTE and draft.status is _IN_PROGRESS:
        # The executor's result was not recorded, so the attempt was not used up.
        draft.attempts = max(0, draft.attempts - 1)
    _stop_running(draft)
    _wait_after(draft, event, at)
    draft.status = _PENDING
    if event.crashed:
        draft.crashes += 1
    if event.reason == ReleaseReason.LATER:
        draft.deferrals += 1
    if event.reason == ReleaseReason.VERIFIER_ERROR:
        draft.verify_errors += 1
    if event.error_class is not None:
        draft.error_class = event.error_class
        draft.error = event.error
        draft.fingerprint = None


def _wait_after(draft: TaskDraft, event: e.TaskReleased, at: int) -> None:
    _stop_waiting(draft)
    if event.until is not None and event.until > at:
        # A reason that a newer release added still says until when.
        reason = _WAITING_FOR.get(event.reason, WaitingReason.TIME)
        draft.waiting_reason = reason.value
        draft.waiting_until = event.until
        draft.waiting_ref = event.ref


def _on_cancel_requested(draft: TaskDraft, event: e.TaskCancelRequested, at: int) -> None:
    draft.cancel_requested = True


def _on_cancelled(draft: TaskDraft, event: e.TaskCancelled, at: int) -> None:
    _stop_running(draft)
    _stop_waiting(draft)
    draft.status = TaskStatus.CANCELLED
    draft.finished_at = at


def _on_requeued(draft: TaskDraft, event: e.TaskRequeued, at: int) -> None:
    _stop_running(draft)
    _stop_waiting(draft)
    _drop_error(draft)
    if not event.verify_only:
        _drop_result(draft)
    draft.status = _PENDING
    draft.phase = _VERIFY if event.verify_only else _EXECUTE
    draft.round = event.round
    draft.attempts = draft.crashes = draft.deferrals = draft.verify_errors = 0
    draft.passed_verifiers = ()
    draft.run_at = at
    draft.finished_at = None


def _on_discarded(draft: TaskDraft, event: e.TaskDiscarded, at: int) -> None:
    draft.status = TaskStatus.DISCARDED
    draft.finished_at = at


def _on_late_result(draft: TaskDraft, event: e.TaskLateResultRejected, at: int) -> None:
    # Only the log keeps what a run reported too late.
    return


def _on_erased(draft: TaskDraft, event: e.TaskErased, at: int) -> None:
    # The events that held the bodies hold them no more, so there is nothing to take away.
    return


_CHANGES: dict[type[Any], Callable[[TaskDraft, Any, int], None]] = {
    e.TaskSubmitted: _on_submitted,
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
    e.TaskErased: _on_erased,
}
