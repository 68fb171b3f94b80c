"""Makes verdicts of what a user's Python verifier returns or raises."""

from __future__ import annotations

from orchd.executors.invocation import confidence_of, describe, instant_of
from orchd.executors.port import Success
from orchd.interfaces import ExecutionResult, Later
from orchd.system import MICROSECONDS_PER_SECOND
from orchd.verifiers.port import Broken, Passed, Rejected, VerifierAnswer

UNSTATED_CONFIDENCE = 1.0
"""What a verifier sees when the executor stated no confidence in its result."""
DEFAULT_FEEDBACK = "the verifier refused the result"


def result_of(success: Success) -> ExecutionResult:
    """Return a recorded success as verifiers see it."""
    stated = success.confidence
    return ExecutionResult(
        success=True,
        output=success.output,
        confidence=UNSTATED_CONFIDENCE if stated is None else stated,
        metadata=dict(success.metadata),
    )


def verification_answer(value: object) -> VerifierAnswer:
    """Return the answer that a verifier's return value stands for.

    A bool is a verdict. Anything with `passed` and `feedback` counts as a
    `VerificationResult`, wherever its class was defined. The rest is no verdict.
    """
    if isinstance(value, bool):
        return Passed() if value else Rejected(feedback=DEFAULT_FEEDBACK)
    passed = getattr(value, "passed", None)
    feedback = getattr(value, "feedback", None)
    if not isinstance(passed, bool) or not isinstance(feedback, str | None):
        kind = type(value).__name__
        return Broken(error=f"the verifier returned {kind}, not a VerificationResult")
    confidence = confidence_of(value)
    if passed:
        return Passed(feedback=feedback or "", confidence=confidence)
    return Rejected(
        feedback=feedback or DEFAULT_FEEDBACK,
        issues=tuple(str(issue) for issue in getattr(value, "issues", None) or ()),
        confidence=confidence,
    )


def verification_error(error: BaseException, now: int) -> Broken:
    """Return the answer that a verifier's exception stands for; it is never a verdict."""
    if not isinstance(error, Later):
        return Broken(error=describe(error))
    try:
        wait = (instant_of(error.when, now) - now) / MICROSECONDS_PER_SECOND
    except (TypeError, ValueError, OverflowError):
        return Broken(error=describe(error))
    return Broken(error=str(error), retry_after_seconds=max(0.0, wait))
