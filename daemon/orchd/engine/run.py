"""One run: a claimed task in this process, and the way to stop it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum

import msgspec

from orchd.executors.port import ExecutorPort, RunContext
from orchd.ledger.port import ClaimedTask
from orchd.tasks.commands import Output
from orchd.tasks.state import Phase, TaskState

_decode = msgspec.json.Decoder().decode


class Stop(StrEnum):
    """Why a run is stopped before it ends by itself."""

    TIMEOUT = "timeout"
    CANCEL = "cancel"
    DRAIN = "drain"
    LEASE = "lease"


class Stopped(Exception):
    """The run was told to stop, for another reason than its time limit."""


class RanOutOfTime(Exception):
    """User code was stopped at its time limit."""


class Run:
    """A claimed task while this process works on it.

    Whoever stops it only sets the reason and cancels the coroutine; the coroutine itself
    records the end. `ended` is set by whoever records the end first, so that a body which
    ignores its cancellation can be left behind without a second report.
    """

    __slots__ = (
        "claimed",
        "committing",
        "context",
        "ended",
        "executor",
        "held",
        "in_body",
        "output",
        "pending_reports",
        "started",
        "state",
        "stop_reason",
        "stops",
        "task",
        "unstorable",
        "verifier",
    )

    def __init__(
        self,
        claimed: ClaimedTask,
        executor: ExecutorPort | None,
        traceparent: str | None = None,
    ) -> None:
        self.claimed = claimed
        self.executor = executor
        """What it executes with, for good: a reload concerns the runs that begin later."""
        self.state: TaskState = claimed.state
        self.context = context_of(claimed, traceparent)
        self.stop_reason: Stop | None = None
        self.stops = 0
        """How often it was told to stop: a time limit may end one phase of it after the
        other."""
        self.in_body = False
        """Whether it is in an executor's or a verifier's hands, who may not let go."""
        self.task: asyncio.Task[None] | None = None
        self.started = False
        """Whether the coroutine has begun; one that has not looks for the reason itself,
        while its cancellation would keep it from recording any end."""
        self.output: Output | None = None
        """The result that verifiers judge and that is not recorded yet."""
        self.verifier = ""
        """The verifier at work, for the report of a run that is left behind."""
        self.unstorable: str | None = None
        """Why its result was rejected, if it was; what rests on it cannot be recorded."""
        self.ended = False
        self.committing = 0
        """How many of its reports, of progress or of its end, are on their way."""
        self.pending_reports = 0
        """How many reports of its end are on their way; while any is, it has a slot."""
        self.held: tuple[Callable[[], None], ...] = ()
        """What sends those that wait until its progress is on disk."""

    @property
    def token(self) -> int:
        """The fencing token of the run."""
        return self.context.token

    @property
    def key(self) -> tuple[str, int]:
        """What tells this run from all others: the task and the fencing token."""
        return (self.context.task_id, self.context.token)

    def stop(self, reason: Stop) -> bool:
        """Ask the run to end; False when it has ended or is being stopped already.

        What it reports is not broken off; it looks for the reason afterwards.
        """
        if self.ended or self.stop_reason is not None or self.task is None:
            return False
        self.stop_reason = reason
        self.stops += 1
        if self.started and not self.committing:
            self.task.cancel()
        return True

    def take_timeout(self) -> bool:
        """Tell whether the time limit stopped the run, and forget the stop if so."""
        if self.stop_reason is not Stop.TIMEOUT:
            return False
        self.stop_reason = None
        return True


def context_of(claimed: ClaimedTask, traceparent: str | None = None) -> RunContext:
    """Return what a run may know about itself; `traceparent` is what it hands on."""
    state = claimed.state
    payload, metadata = claimed.payload, state.metadata
    return RunContext(
        # In the order of the fields: with their names it takes twice as long.
        state.id,
        state.runs,
        state.attempts,
        state.max_attempts,
        state.round,
        state.queue,
        state.token or 0,
        f"{state.id}:{state.round}",
        state.feedback,
        state.deadline,
        claimed.description,
        None if payload is None else _decode(payload),
        payload,
        {} if metadata is None else _decode(metadata) or {},
        traceparent,
        claimed.task,
    )


def is_verification(run: Run) -> bool:
    """Tell whether the run begins with a recorded result."""
    return run.claimed.state.phase is Phase.VERIFY
