"""The closed list of reasons for which a run does not complete."""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum


class ErrorClass(StrEnum):
    """Every class of failure that a task can record. The values are stored: add only."""

    EXECUTION_FAILED = "execution_failed"
    """The executor said that it failed, or a command ended with a failing code."""
    EXCEPTION = "exception"
    """The executor raised."""
    INVALID_RESULT = "invalid_result"
    """The executor returned something that is no result."""
    TIMEOUT = "timeout"
    """The execution ran into its time limit."""
    FINAL_FAILURE = "final_failure"
    """The executor said that the task can never succeed."""
    NOT_VERIFIED = "not_verified"
    """A verifier refused the result."""
    VERIFIER_ERROR = "verifier_error"
    """A verifier was down, too slow or talked nonsense, too often."""
    DEPENDENCY = "dependency"
    """What the executor depends on failed: connection, 5xx, overload."""
    RATE_LIMITED = "rate_limited"
    """What the executor depends on asked to slow down (429)."""
    UNAUTHORIZED = "unauthorized"
    """Credentials or billing were refused (401, 402, 403)."""
    INVALID_REQUEST = "invalid_request"
    """What the executor sent was refused as malformed (400, 404, 413, 422)."""
    MODEL_REFUSED = "model_refused"
    """A model declined to answer."""
    TRUNCATED = "truncated"
    """An answer was cut before its end."""
    CRASHED = "crashed"
    """The worker died while it ran this task alone."""
    DEFERRED_TOO_OFTEN = "deferred_too_often"
    """The executor asked for a later time more often than `max_deferrals`."""
    CANNOT_START = "cannot_start"
    """The program or class of the executor cannot be started or loaded."""


DEPENDENCY_CLASSES = frozenset({ErrorClass.DEPENDENCY, ErrorClass.RATE_LIMITED})
"""What counts against a breaker besides a timeout of a remote call and exit code 75."""

_VARIABLE_PARTS = re.compile(
    r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    r"|0x[0-9a-fA-F]+|[0-9a-fA-F]{8,}|\d+"
)
_FINGERPRINT_LENGTH = 16


def fingerprint(error_class: ErrorClass, error: str) -> str:
    """Return a short text that is equal for failures of the same kind.

    Numbers, addresses, UUIDs and long hexadecimal words are what differs between two
    failures of one cause, so they are masked before hashing (SHA-256, first 16 digits).
    """
    first_line = error.strip().partition("\n")[0]
    masked = _VARIABLE_PARTS.sub("#", first_line)
    digest = hashlib.sha256(f"{error_class}\0{masked}".encode(errors="replace"))
    return digest.hexdigest()[:_FINGERPRINT_LENGTH]
