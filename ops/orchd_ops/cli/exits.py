"""The exit codes, a contract with scripts."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What the process ends with."""

    DONE = 0
    FAILED = 1
    """The thing that was asked about failed."""
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNAVAILABLE = 69
    """No daemon, no database, or no state there."""
    TRY_AGAIN = 75
    """Busy or locked."""
    CONFIGURATION = 78


class Failure(Exception):
    """A command cannot do what it was asked to.

    Args:
        message: what happened, to what, and what to do, as one sentence.
        exit_code: one of `Exit`.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
