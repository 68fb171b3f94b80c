"""What can be asked of a task. A command carries everything that `decide` must know."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from orchd.tasks.events import Body, TaskSubmitted
from orchd.tasks.failures import ErrorClass
from orchd.tasks.state import ReleaseReason


class Command(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The base of all commands; `now` is the ledger's clock in microseconds."""

    now: int


class Submit(Command, frozen=True, kw_only=True):
    """Accept a task."""

    submitted: TaskSubmitted


class Start(Command, frozen=True, kw_only=True):
    """Claim a ready task for a worker."""

    worker: str
    max_crashes: int


class RunCommand(Command, frozen=True, kw_only=True):
    """Something that the run with this fencing token reports."""

    token: int
    run: int


class Output(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a successful execution produced, ready to be stored."""

    result: Body
    confidence: float | None = None
    metadata: msgspec.Raw | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one verifier said of a result."""

    verifier: str
    feedback: str = ""
    issues: tuple[str, ...] = ()
    confidence: float | None = None


class RecordResult(RunCommand, frozen=True, kw_only=True):
    """Keep the executor's result before anything judges it."""

    output: Output


class RecordPass(RunCommand, frozen=True, kw_only=True):
    """Keep that one verifier passed while others have yet to judge."""

    verdict: Verdict


class Complete(RunCommand, frozen=True, kw_only=True):
    """End the task: every verifier passed.

    `output` is given when the result was not recorded before; `verdict` is the last
    verifier's, when it judged a recorded result.
    """

    output: Output | None = None
    verdict: Verdict | None = None
    verifiers: tuple[str, ...] = ()


class Refuse(RunCommand, frozen=True, kw_only=True):
    """A verifier refused the result; `output` as in `Complete`."""

    verdict: Verdict
    retry_at: int
    output: Output | None = None


class Fail(RunCommand, frozen=True, kw_only=True):
    """The execution failed."""

    error_class: ErrorClass
    error: str
    retry_at: int
    final: bool = False


class FailVerification(RunCommand, frozen=True, kw_only=True):
    """A verifier was down or talked nonsense; the stored result waits for another try."""

    verifier: str
    error: str
    retry_at: int
    max_verify_errors: int
    output: Output | None = None
    """Set when the result was not recorded before."""


class Release(RunCommand, frozen=True, kw_only=True):
    """Give the task back uncharged."""

    reason: ReleaseReason
    until: int | None = None
    ref: str | None = None
    error_class: ErrorClass | None = None
    error: str | None = None
    max_deferrals: int | None = None
    """The limit that `ReleaseReason.LATER` counts against."""


class ConfirmCancel(RunCommand, frozen=True, kw_only=True):
    """The run was stopped because a cancellation was requested."""


class Recover(Command, frozen=True, kw_only=True):
    """The worker that held the task is dead, or has lost this run: take the task from it.

    With a `token` only that run is ended, and not a later one of the same worker.
    """

    worker: str
    token: int | None = None


class Cancel(Command, frozen=True, kw_only=True):
    """Stop the task, now or as soon as its worker hears of it."""


class Requeue(Command, frozen=True, kw_only=True):
    """Give a dead letter a new round."""

    verify_only: bool = False


class Discard(Command, frozen=True, kw_only=True):
    """Put a dead letter away."""


class Erase(Command, frozen=True, kw_only=True):
    """Say that the bodies of a finished task are erased.

    `version` is that of the stream whose events were prepared for it.
    """

    version: int
    erased: tuple[tuple[int, str, str], ...]


TaskCommand: TypeAlias = (
    Submit
    | Start
    | RecordResult
    | RecordPass
    | Complete
    | Refuse
    | Fail
    | FailVerification
    | Release
    | ConfirmCancel
    | Recover
    | Cancel
    | Requeue
    | Discard
    | Erase
)
