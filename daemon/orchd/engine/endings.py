"""The commands that end a run, built from what happened. Pure but for `repr`."""

from __future__ import annotations

import traceback

import msgspec

from orchd.config.settings import RetrySettings, Settings
from orchd.engine.run import RanOutOfTime, Run, Stop
from orchd.engine.storable import (
    ERROR_BYTES_MAX,
    FEEDBACK_BYTES_MAX,
    storable,
    storable_object,
)
from orchd.executors.port import Deferred, Failure, Final, Success
from orchd.ledger.port import ClaimedTask
from orchd.system import MICROSECONDS_PER_SECOND
from orchd.tasks import commands as c
from orchd.tasks.failures import ErrorClass
from orchd.tasks.state import Phase, ReleaseReason
from orchd.verifiers.port import Broken, Passed, Rejected

TRACEBACK_LINES = 8
INSTANT_MAX = 253_402_300_799_000_000
"""The last second of the year 9999; what is put off for longer is put off until then."""


def microseconds(seconds: float) -> int:
    """Return a span of seconds in microseconds."""
    return round(seconds * MICROSECONDS_PER_SECOND)


def retry_settings(settings: Settings, executor: str) -> RetrySettings:
    """Return the retry settings that hold for an executor."""
    configured = settings.executors.get(executor)
    return settings.retry if configured is None else configured.retry


def output_of(answer: Success, bytes_max: int) -> c.Output:
    """Return a success in its stored form."""
    return c.Output(
        result=storable(answer.output, bytes_max),
        confidence=answer.confidence,
        metadata=storable_object(answer.metadata),
    )


def recorded_success(claimed: ClaimedTask) -> Success:
    """Return the result that an earlier run recorded."""
    metadata = claimed.state.result_metadata
    return Success(
        output=claimed.result or "",
        confidence=claimed.state.confidence,
        metadata={} if metadata is None else msgspec.json.decode(metadata),
    )


def error_text(text: str) -> str:
    """Return an error as it is stored."""
    return storable(text, ERROR_BYTES_MAX)


def describe(error: BaseException) -> str:
    """Return the type, the message and the last lines of the traceback of an error.

    Survives errors that cannot even be printed.
    """
    try:
        message = str(error)
    except BaseException as second:
        message = f"(its text cannot be made: {type(second).__name__})"
    head = f"{type(error).__name__}: {message}" if message else type(error).__name__
    lines = traceback.format_tb(error.__traceback__)[-TRACEBACK_LINES:]
    return "\n".join([head, *(line.rstrip() for line in lines)])


def failure_of(error: BaseException) -> Failure:
    """Return the failure that an executor's exception stands for."""
    if isinstance(error, RanOutOfTime):
        return Failure(error=str(error), error_class=ErrorClass.TIMEOUT)
    return Failure(error=describe(error), error_class=ErrorClass.EXCEPTION)


def broken_by(error: BaseException) -> Broken:
    """Return what a verifier's exception stands for: no verdict."""
    if isinstance(error, RanOutOfTime):
        return Broken(error=str(error))
    return Broken(error=describe(error))


def failed(run: Run, now: int, answer: Failure, wait_seconds: float) -> c.Fail:
    """End a run whose execution failed."""
    return c.Fail(
        now=now,
        token=run.token,
        run=run.context.run,
        error_class=answer.error_class,
        error=error_text(answer.error),
        retry_at=_later(now, wait_seconds),
    )


def final(run: Run, now: int, answer: Final) -> c.Fail:
    """End a run whose task can never succeed."""
    return c.Fail(
        now=now,
        token=run.token,
        run=run.context.run,
        error_class=answer.error_class,
        error=error_text(answer.error),
        retry_at=now,
        final=True,
    )


def deferred(
    run: Run, now: int, answer: Deferred, wait_seconds: float, max_deferrals: int
) -> c.Release:
    """End a run that asked for a later time."""
    until = _later(now, wait_seconds) if answer.until is None else answer.until
    return c.Release(
        now=now,
        token=run.token,
        run=run.context.run,
        reason=ReleaseReason.LATER,
        until=max(0, min(until, INSTANT_MAX)),
        ref=error_text(answer.reason) or None,
        max_deferrals=max_deferrals,
    )


def released_by_breaker(run: Run, now: int, answer: Failure, until: int) -> c.Release:
    """End a run that met a dependency already known to be down."""
    return c.Release(
        now=now,
        token=run.token,
        run=run.context.run,
        reason=ReleaseReason.BREAKER,
        until=until,
        ref=run.state.executor,
        error_class=answer.error_class,
        error=error_text(answer.error),
    )


def missing(run: Run, now: int, name: str, until: int) -> c.Release:
    """End a run for which this worker lacks an executor or a verifier."""
    return c.Release(
        now=now,
        token=run.token,
        run=run.context.run,
        reason=ReleaseReason.EXECUTOR_MISSING,
        until=until,
        ref=name,
    )


def verdict_of(verifier: str, answer: Passed | Rejected) -> c.Verdict:
    """Return a verifier's answer in its stored form."""
    issues = answer.issues if isinstance(answer, Rejected) else ()
    return c.Verdict(
        verifier=verifier,
        feedback=storable(answer.feedback, FEEDBACK_BYTES_MAX),
        issues=tuple(error_text(issue) for issue in issues),
        confidence=answer.confidence,
    )


def refused(
    run: Run, now: int, verdict: c.Verdict, wait_seconds: float, output: c.Output | None
) -> c.Refuse:
    """End a run whose result was refused."""
    return c.Refuse(
        now=now,
        token=run.token,
        run=run.context.run,
        verdict=verdict,
        retry_at=_later(now, wait_seconds),
        output=output,
    )


def unverified(
    run: Run,
    now: int,
    answer: Broken,
    wait_seconds: float,
    max_verify_errors: int,
    output: c.Output | None,
) -> c.FailVerification:
    """End a run whose verifier gave no verdict."""
    wait = max(wait_seconds, answer.retry_after_seconds or 0.0)
    return c.FailVerification(
        now=now,
        token=run.token,
        run=run.context.run,
        verifier=run.verifier,
        error=error_text(answer.error),
        retry_at=_later(now, wait),
        max_verify_errors=max_verify_errors,
        output=output,
    )


def recorded(run: Run, now: int) -> c.TaskCommand:
    """Take the run's result from it, to record it before the run ends."""
    output, run.output = run.output, None
    assert output is not None
    return c.RecordResult(now=now, token=run.token, run=run.context.run, output=output)


def stopped(run: Run, now: int) -> c.TaskCommand:
    """End a run that was told to stop for another reason than its time limit."""
    if run.stop_reason is Stop.CANCEL:
        return c.ConfirmCancel(now=now, token=run.token, run=run.context.run)
    return c.Release(
        now=now, token=run.token, run=run.context.run, reason=ReleaseReason.DRAIN
    )


def left_behind(
    run: Run, now: int, wait_seconds: float, max_verify_errors: int
) -> c.TaskCommand:
    """End a run whose body goes on in spite of being stopped."""
    if run.stop_reason is not Stop.TIMEOUT:
        return stopped(run, now)
    error = "ran out of time and did not react to its cancellation"
    if run.verifier:
        # It may be one that judges before the result is recorded, which must not be lost.
        answer = Broken(error=f"verifier {run.verifier} {error}")
        return unverified(run, now, answer, wait_seconds, max_verify_errors, run.output)
    failure = Failure(error=f"the execution {error}", error_class=ErrorClass.TIMEOUT)
    return failed(run, now, failure, wait_seconds)


def unstorable(run: Run, now: int, reason: str, wait_seconds: float) -> c.TaskCommand:
    """End a run whose report the database would not store."""
    error = f"the run's report could not be stored: {reason}"
    if run.state.phase is Phase.VERIFY:
        return unverified(run, now, Broken(error=error), wait_seconds, 1, None)
    failure = Failure(error=error, error_class=ErrorClass.INVALID_RESULT)
    return failed(run, now, failure, wait_seconds)


def _later(now: int, wait_seconds: float) -> int:
    return min(now + microseconds(min(wait_seconds, 1e10)), INSTANT_MAX)
