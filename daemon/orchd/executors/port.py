"""What an executor is to the engine, and everything that it can say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import msgspec

from orchd.interfaces import Task
from orchd.tasks.failures import ErrorClass


class RunContext(msgspec.Struct, frozen=True, gc=False):
    """What a run knows about itself. Executors and verifiers get it as `context`."""

    task_id: str
    run: int
    """1, 2, …; never repeats for a task."""
    attempt: int
    """1, 2, …; repeats after a run that was not charged."""
    max_attempts: int
    round: int
    queue: str
    token: int
    """The fencing token: a number that rises with every claim of the task."""
    idempotency_key: str
    """The same for all runs until a requeue."""
    feedback: str | None
    """What the verifier said of the last attempt."""
    deadline: int | None
    """When this phase of the run is stopped, in microseconds since the epoch."""
    description: str
    payload: Any = None
    """The task's payload, parsed."""
    payload_text: str | None = None
    """The task's payload as canonical JSON text."""
    metadata: Mapping[str, Any] = {}
    traceparent: str | None = None
    task: Task | None = None
    """The store's own task object, when an embedded task store holds the task."""
    heartbeat: Callable[[], None] = lambda: None
    """Tells the engine that the run is alive; cheap, may be called at any rate."""


class Success(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The execution has a result."""

    output: str
    confidence: float | None = None
    metadata: Mapping[str, Any] = {}


class Failure(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The execution failed; another attempt may succeed."""

    error: str
    error_class: ErrorClass = ErrorClass.EXECUTION_FAILED
    retry_after_seconds: float | None = None
    """At least this long until the next attempt, when the other side said so."""


class Final(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The task can never succeed."""

    error: str
    error_class: ErrorClass = ErrorClass.FINAL_FAILURE


class Deferred(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Not now: give the task back uncharged.

    `until` is an instant in microseconds; without it the retry backoff decides.
    `dependency` tells that what the executor depends on is not available, which
    counts against its breaker.
    """

    until: int | None = None
    reason: str = ""
    dependency: bool = False


ExecutorAnswer: TypeAlias = Success | Failure | Final | Deferred


class ExecutorPort(Protocol):
    """An executor as the engine drives it.

    `execute` is cancelled (`asyncio.CancelledError`) when its time is over, when the task
    is cancelled, or at the end of a drain. It must then stop everything it started, and
    only then let the cancellation through. Whatever else it raises is a failure of that
    task, never of the engine.
    """

    name: str
    kind: str
    """`fake`, `echo`, `command`, `python`, `http` or `claude`."""
    exclusive: bool
    """Whether a run must be stopped as soon as its worker's lease has run out."""

    async def execute(self, context: RunContext) -> ExecutorAnswer: ...

    async def close(self) -> None:
        """Stop whatever is kept warm between runs; idempotent."""
        ...
