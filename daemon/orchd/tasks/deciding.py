"""What a command causes: the deciding half of a task's state machine.

`decide` is pure: it returns the events that the command causes (none when it has nothing
left to do), or raises `Refused`. The clock is the command's `now`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

from orchd.interfaces import TaskStatus
from orchd.tasks import commands as c
from orchd.tasks import events as e
from orchd.tasks.erasing import ERASED_HASH
from orchd.tasks.failures import ErrorClass, fingerprint
from orchd.tasks.state import Phase, ReleaseReason, TaskState

MICROSECONDS = 1_000_000
INSTANT_MAX = 2**62
"""An instant far beyond any calendar; keeps instants within 64 bits."""

Events = tuple[e.TaskEvent, ...]


class Refused(Exception):
    """The command does not fit the state of the task.

    Attributes:
        code: `not_found`, `conflict` or `stale`; callers branch on it.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def decide(state: TaskState | None, command: c.TaskCommand) -> Events:
    """Return the events that `command` causes in `state`.

    Raises:
        Refused: the command does not fit the state.
    """
    if isinstance(command, c.Submit):
        return _submit(state, command)
    if state is None:
        raise Refused("not_found", "no such task")
    if isinstance(command, c.RunCommand) and not _owns(state, command.token):
        return _reject_late(state, command)
    return _DECISIONS[type(command)](state, command)


def _submit(state: TaskState | None, command: c.Submit) -> Events:
    if state is not None:
        raise Refused("conflict", f"task {state.id} exists")
    return (_with_finite_limits(command.submitted),)


def _with_finite_limits(event: e.TaskSubmitted) -> e.TaskSubmitted:
    execute = _finite(event.execute_timeout_seconds)
    verify = _finite(event.verify_timeout_seconds)
    limits = (event.execute_timeout_seconds, event.verify_timeout_seconds)
    if limits == (execute, verify):
        return event
    return msgspec.structs.replace(
        event, execute_timeout_seconds=execute, verify_timeout_seconds=verify
    )


def _owns(state: TaskState, token: int) -> bool:
    return state.status is TaskStatus.IN_PROGRESS and state.token == token


def _reject_late(state: TaskState, command: c.RunCommand) -> Events:
    if isinstance(command, c.Release | c.ConfirmCancel):
        raise Refused("stale", f"task {state.id} is no longer held by this run")
    report = type(command).__name__
    return (e.TaskLateResultRejected(token=command.token, run=command.run, report=report),)


def _start(state: TaskState, command: c.Start) -> Events:
    if state.status is not TaskStatus.PENDING:
        raise Refused("conflict", f"task {state.id} is {state.status.value}")
    if not is_ready(state, command.now):
        raise Refused("conflict", f"task {state.id} waits: {state.waiting_reason}")
    charged = state.phase is Phase.EXECUTE
    timeout = state.execute_timeout_seconds if charged else state.verify_timeout_seconds
    return (
        e.TaskStarted(
            run=state.runs + 1,
            attempt=state.attempts + charged,
            phase=state.phase.value,
            token=state.version + 1,
            worker=command.worker,
            deadline=_deadline(command.now, timeout),
            alone=state.crashes >= command.max_crashes,
        ),
    )


def is_ready(state: TaskState, now: int) -> bool:
    """Tell whether a pending task waits for nothing any more."""
    if state.waiting_reason is None:
        return True
    return state.waiting_until is not None and state.waiting_until <= now


def _deadline(now: int, timeout_seconds: float | None) -> int | None:
    if timeout_seconds is None:
        return None
    return now + round(min(timeout_seconds * MICROSECONDS, INSTANT_MAX - now))


def _record_result(state: TaskState, command: c.RecordResult) -> Events:
    if state.phase is not Phase.EXECUTE:
        raise Refused("conflict", f"task {state.id} has its result already")
    return (_executed(state, command.output, command.now),)


def _executed(state: TaskState, output: c.Output, now: int) -> e.TaskExecuted:
    return e.TaskExecuted(
        run=state.runs,
        result=output.result,
        confidence=_finite(output.confidence),
        result_metadata=output.metadata,
        deadline=_deadline(now, state.verify_timeout_seconds),
    )


def _verified(state: TaskState, verdict: c.Verdict, passed: bool) -> e.TaskVerified:
    return e.TaskVerified(
        run=state.runs,
        passed=passed,
        verifier=verdict.verifier,
        feedback=verdict.feedback,
        issues=verdict.issues,
        confidence=_finite(verdict.confidence),
    )


def _finite(number: float | None) -> float | None:
    # JSON has neither infinity nor NaN: the log would hold null, the state another value.
    return number if number is not None and math.isfinite(number) else None


def _record_pass(state: TaskState, command: c.RecordPass) -> Events:
    _require_result(state)
    return (_verified(state, command.verdict, passed=True),)


def _require_result(state: TaskState) -> None:
    if state.phase is not Phase.VERIFY:
        raise Refused("conflict", f"task {state.id} has no result to judge")


def _complete(state: TaskState, command: c.Complete) -> Events:
    recorded = state.phase is Phase.VERIFY
    if recorded == (command.output is not None):
        raise Refused("conflict", f"task {state.id}: one result, recorded or given")
    _require_passes(state, command)
    completed = e.TaskCompleted(
        run=state.runs, token=command.token, verifiers=command.verifiers
    )
    if command.output is not None:
        completed = msgspec.structs.replace(
            completed,
            result=command.output.result,
            confidence=_finite(command.output.confidence),
            result_metadata=command.output.metadata,
        )
    if command.verdict is None:
        return (completed,)
    return (_verified(state, command.verdict, passed=True), completed)


def _require_passes(state: TaskState, command: c.Complete) -> None:
    passed = {*state.passed_verifiers, *command.verifiers}
    if command.verdict is not None:
        passed.add(command.verdict.verifier)
    missing = [name for name in state.verifiers if name not in passed]
    if missing:
        detail = f"task {state.id} has not been passed by {', '.join(missing)}"
        raise Refused("conflict", detail)


def _refuse(state: TaskState, command: c.Refuse) -> Events:
    first = _executed_unless_recorded(state, command.output, command.now)
    verdict = _verified(state, command.verdict, passed=False)
    end = _end_attempt(
        state,
        error_class=ErrorClass.NOT_VERIFIED,
        error=command.verdict.feedback or f"refused by {command.verdict.verifier}",
        feedback=command.verdict.feedback,
        retry_at=command.retry_at,
        final=False,
    )
    return (*first, verdict, end)


def _executed_unless_recorded(
    state: TaskState, output: c.Output | None, now: int
) -> Events:
    if output is None:
        _require_result(state)
        return ()
    if state.phase is Phase.VERIFY:
        raise Refused("conflict", f"task {state.id} has its result already")
    return (_executed(state, output, now),)


def _fail(state: TaskState, command: c.Fail) -> Events:
    if state.phase is not Phase.EXECUTE:
        raise Refused("conflict", f"task {state.id} has been executed")
    return (
        _end_attempt(
            state,
            error_class=command.error_class,
            error=command.error,
            feedback=None,
            retry_at=command.retry_at,
            final=command.final,
        ),
    )


def _end_attempt(
    state: TaskState,
    *,
    error_class: ErrorClass,
    error: str,
    feedback: str | None,
    retry_at: int,
    final: bool,
) -> e.TaskEvent:
    if state.cancel_requested:
        # Nobody wants it any more; a dead letter could be requeued with all the others.
        return e.TaskCancelled(run=state.runs)
    if final or state.attempts >= state.max_attempts:
        return _failed(state, error_class, error, feedback)
    return e.TaskRetried(
        run=state.runs,
        run_at=retry_at,
        error_class=error_class.value,
        error=error,
        feedback=feedback,
        fingerprint=fingerprint(error_class, error),
    )


def _failed(
    state: TaskState, error_class: ErrorClass, error: str, feedback: str | None = None
) -> e.TaskFailed:
    return e.TaskFailed(
        run=state.runs,
        error_class=error_class.value,
        error=error,
        feedback=feedback,
        fingerprint=fingerprint(error_class, error),
    )


def _fail_verification(state: TaskState, command: c.FailVerification) -> Events:
    first = _executed_unless_recorded(state, command.output, command.now)
    if state.cancel_requested:
        return (*first, e.TaskCancelled(run=state.runs))
    if state.verify_errors + 1 >= command.max_verify_errors:
        return (*first, _failed(state, ErrorClass.VERIFIER_ERROR, command.error))
    released = e.TaskReleased(
        run=state.runs,
        reason=ReleaseReason.VERIFIER_ERROR.value,
        until=command.retry_at,
        ref=command.verifier,
        error_class=ErrorClass.VERIFIER_ERROR.value,
        error=command.error,
    )
    return (*first, released)


def _release(state: TaskState, command: c.Release) -> Events:
    if state.cancel_requested:
        return (e.TaskCancelled(run=state.runs),)
    if _deferred_too_often(state, command):
        error = command.error or f"asked for a later time {state.deferrals + 1} times"
        return (_failed(state, ErrorClass.DEFERRED_TOO_OFTEN, error),)
    return (
        e.TaskReleased(
            run=state.runs,
            reason=command.reason.value,
            until=command.until,
            ref=command.ref,
            error_class=command.error_class,
            error=command.error,
        ),
    )


def _deferred_too_often(state: TaskState, command: c.Release) -> bool:
    if command.reason is not ReleaseReason.LATER or command.max_deferrals is None:
        return False
    return state.deferrals + 1 > command.max_deferrals


def _confirm_cancel(state: TaskState, command: c.ConfirmCancel) -> Events:
    del command
    return (e.TaskCancelled(run=state.runs),)


def _recover(state: TaskState, command: c.Recover) -> Events:
    if state.status is not TaskStatus.IN_PROGRESS or state.worker != command.worker:
        return ()
    if command.token is not None and state.token != command.token:
        return ()
    if state.cancel_requested:
        return (e.TaskCancelled(run=state.runs),)
    if state.alone:
        error = f"the worker died {state.crashes + 1} times, last with this task alone"
        return (_failed(state, ErrorClass.CRASHED, error),)
    return (
        e.TaskReleased(
            run=state.runs, reason=ReleaseReason.WORKER_LOST.value, crashed=True
        ),
    )


def _cancel(state: TaskState, command: c.Cancel) -> Events:
    del command
    if state.status is TaskStatus.CANCELLED or state.cancel_requested:
        return ()
    if state.status is TaskStatus.PENDING:
        return (e.TaskCancelled(),)
    if state.status is TaskStatus.IN_PROGRESS:
        return (e.TaskCancelRequested(),)
    raise Refused("conflict", f"task {state.id} is {state.status.value} already")


def _requeue(state: TaskState, command: c.Requeue) -> Events:
    if state.status not in (TaskStatus.FAILED, TaskStatus.DISCARDED):
        raise Refused("conflict", f"task {state.id} is {state.status.value}, not dead")
    if state.description_blob == ERASED_HASH:
        raise Refused("conflict", f"the bodies of task {state.id} were erased")
    if command.verify_only and not state.has_result:
        raise Refused("conflict", f"task {state.id} holds no result to verify")
    return (e.TaskRequeued(round=state.round + 1, verify_only=command.verify_only),)


def _discard(state: TaskState, command: c.Discard) -> Events:
    del command
    if state.status is not TaskStatus.FAILED:
        raise Refused("conflict", f"task {state.id} is {state.status.value}, not dead")
    return (e.TaskDiscarded(),)


def _erase(state: TaskState, command: c.Erase) -> Events:
    if not state.is_terminal:
        raise Refused("conflict", f"task {state.id} is {state.status.value}, not finished")
    if state.version != command.version:
        raise Refused("stale", f"task {state.id} has moved meanwhile")
    return (e.TaskErased(erased=command.erased),)


_DECISIONS: dict[type[Any], Callable[[TaskState, Any], Events]] = {
    c.Start: _start,
    c.RecordResult: _record_result,
    c.RecordPass: _record_pass,
    c.Complete: _complete,
    c.Refuse: _refuse,
    c.Fail: _fail,
    c.FailVerification: _fail_verification,
    c.Release: _release,
    c.ConfirmCancel: _confirm_cancel,
    c.Recover: _recover,
    c.Cancel: _cancel,
    c.Requeue: _requeue,
    c.Discard: _discard,
    c.Erase: _erase,
}
