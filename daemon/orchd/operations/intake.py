"""Submissions on their way into the ledger: one, all or nothing, or each for itself."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec

from orchd.config.settings import Settings
from orchd.ledger.port import (
    ActOnTask,
    Ledger,
    Origin,
    Outcome,
    Refusal,
    Request,
    SubmitTask,
    Submitted,
)
from orchd.operations.errors import (
    Conflict,
    Fault,
    Invalid,
    KeyConflict,
    NotFound,
    OperationError,
    TooLarge,
    invalid,
)
from orchd.operations.submission import Known, Resolved, read_submission, resolve
from orchd.system import System
from orchd.tasks.commands import Cancel, Submit

BATCH_TASKS_MAX = 1000
"""Most tasks in one request."""

Committer: TypeAlias = Callable[[Sequence[Request]], Awaitable[list[Outcome]]]
"""Commits requests and answers them in order; the answer is durable."""


class Caller(NamedTuple):
    """Who asks, and why."""

    actor: str
    reason: str = ""
    traceparent: str | None = None

    def origin(self, traceparent: str | None = None) -> Origin:
        """Return what the ledger stores of the caller."""
        trace = traceparent or self.traceparent
        return Origin(actor=self.actor, reason=self.reason, traceparent=trace)


class Accepted(NamedTuple):
    """A submission that is in the ledger; `created` unless it was there before."""

    submitted: Submitted
    resolved: Resolved


class Prepared(NamedTuple):
    """A submission that can be sent."""

    resolved: Resolved
    request: SubmitTask


class Intake:
    """Takes submissions for one ledger."""

    def __init__(self, ledger: Ledger, commit: Committer, system: System) -> None:
        self._ledger = ledger
        self._commit = commit
        self._system = system

    def prepare(
        self, body: Any, settings: Settings, known: Known, now: int, caller: Caller
    ) -> Prepared:
        """Check one submission and fill in its defaults; raises `OperationError`."""
        submission, text = read_submission(body)
        resolved = resolve(submission, text, settings=settings, known=known, now=now)
        request = SubmitTask(
            task_id=resolved.task_id or self._system.new_id(),
            command=Submit(now=now, submitted=resolved.submitted),
            origin=caller.origin(resolved.traceparent),
        )
        return Prepared(resolved, request)

    async def submit(self, prepared: Prepared) -> Accepted:
        """Send one submission.

        Raises:
            Conflict: the id was used for another task.
            KeyConflict: the idempotency key was.
        """
        (outcome,) = await self._commit([prepared.request])
        return _accepted(prepared, outcome)

    async def submit_all(self, batch: Sequence[Prepared], caller: Caller) -> list[Accepted]:
        """Send several, all or nothing; raises what `submit` raises."""
        _check_repetitions(batch)
        found = await self._ledger.taken([prepared.request for prepared in batch])
        for prepared, taken in zip(batch, found, strict=True):
            if taken is not None:
                _accepted(prepared, taken)
        outcomes = await self._commit([prepared.request for prepared in batch])
        try:
            return list(map(_accepted, batch, outcomes))
        except OperationError:
            # Somebody took an id or a key after it was looked up. What got in with this
            # batch is taken back before anything is said.
            await self._take_back(batch, outcomes, caller)
            raise

    async def submit_each(
        self, batch: Sequence[Prepared]
    ) -> list[Accepted | OperationError]:
        """Send several, each for itself."""
        outcomes = await self._commit([prepared.request for prepared in batch])
        answers: list[Accepted | OperationError] = []
        for prepared, outcome in zip(batch, outcomes, strict=True):
            try:
                answers.append(_accepted(prepared, outcome))
            except OperationError as error:
                answers.append(error)
        return answers

    async def _take_back(
        self, batch: Sequence[Prepared], outcomes: Sequence[Outcome], caller: Caller
    ) -> None:
        origin = caller._replace(reason="another task of its batch was refused").origin()
        cancels: list[Request] = [
            ActOnTask(
                task_id=outcome.state.id,
                command=Cancel(now=prepared.request.command.now),
                origin=origin,
            )
            for prepared, outcome in zip(batch, outcomes, strict=True)
            if isinstance(outcome, Submitted) and outcome.created
        ]
        if cancels:
            await self._commit(cancels)


def key_of_item(key: str, index: int) -> str:
    """Return the idempotency key of one task in a batch that has one key."""
    text = f"{key}/{index}"
    if len(text) <= 200:
        return text
    return hashlib.sha256(key.encode()).hexdigest() + f"/{index}"


def in_item(index: int, error: OperationError) -> list[Fault]:
    """Return the faults of one task of a batch, named by its place."""
    if isinstance(error, TooLarge):
        raise error
    faults = error.faults or (Fault(field="", rule=error.detail),)
    return [
        msgspec.structs.replace(
            fault, field=f"[{index}].{fault.field}" if fault.field else f"[{index}]"
        )
        for fault in faults
    ]


def refusal_error(refusal: Refusal) -> OperationError:
    """Return the error that a ledger's refusal stands for."""
    kind = _ERRORS.get(refusal.code, Conflict)
    if kind is Invalid:
        return invalid([Fault(field="", rule=refusal.detail)])
    return kind(refusal.detail)


_ERRORS: dict[str, type[OperationError]] = {
    "not_found": NotFound,
    "key_conflict": KeyConflict,
    "rejected": Invalid,
}


def _accepted(prepared: Prepared, outcome: Outcome) -> Accepted:
    if isinstance(outcome, Submitted):
        return Accepted(outcome, prepared.resolved)
    if not isinstance(outcome, Refusal):
        raise TypeError(f"a submission was answered with {type(outcome).__name__}")
    if outcome.code in ("id_conflict", "key_conflict"):
        raise _taken(prepared, by_key=outcome.code == "key_conflict")
    raise refusal_error(outcome)


def _taken(prepared: Prepared, *, by_key: bool = False) -> OperationError:
    if by_key or not prepared.resolved.named:
        key = prepared.resolved.submitted.idempotency_key
        rule = f"the idempotency key {key!r} was used for another task"
        return KeyConflict(rule, [Fault(field="idempotency_key", rule=rule, value=key)])
    task_id = prepared.request.task_id
    return Conflict(
        f"there is a task {task_id!r} already, and it is another one; "
        "choose another id or submit the same task"
    )


def _check_repetitions(batch: Sequence[Prepared]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for prepared in batch:
        submitted = prepared.resolved.submitted
        marks = [("id", prepared.request.task_id)]
        if submitted.idempotency_key is not None:
            marks.append(("key", submitted.idempotency_key))
        for kind, value in marks:
            if seen.setdefault((kind, value), submitted.body_hash) != submitted.body_hash:
                raise _taken(prepared, by_key=kind == "key")
