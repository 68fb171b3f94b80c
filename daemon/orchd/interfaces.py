"""The contracts that users write classes against.

A class written for these interfaces runs embedded (through `Orchestrator`) and in the
daemon (`type = "python"`) without change. They hold no vendor code and no I/O.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class TaskStatus(Enum):
    """Where a task is in its life; the values are the stored and public names."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DISCARDED = "discarded"


@dataclass
class Task:
    """A unit of work as executors, verifiers, stores and hooks see it.

    `attempts` counts the starts that were charged, the running one included. `metadata`
    belongs to the user; orchd adds nothing to it.
    """

    id: str
    description: str
    status: TaskStatus = TaskStatus.PENDING
    result: str | None = None
    attempts: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class ExecutionResult:
    """What an executor returns: its output, or why there is none.

    `confidence` is between 0 and 1 and only informs verifiers and people.
    """

    success: bool
    output: str
    confidence: float
    error: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class VerificationResult:
    """A verifier's verdict; `feedback` reaches the next attempt when it is a refusal."""

    passed: bool
    confidence: float
    feedback: str
    issues: list[str] = field(default_factory=list)


class TaskStore(ABC):
    """Where an embedded `Orchestrator` keeps its tasks."""

    @abstractmethod
    def get_next(self) -> Task | None:
        """Return the next pending task without changing it, or None."""

    @abstractmethod
    def has_pending(self) -> bool:
        """Tell whether any task is pending."""

    @abstractmethod
    def update_status(self, task_id: str, status: TaskStatus) -> None:
        """Set the status of a task."""

    @abstractmethod
    def save_result(self, task_id: str, result: str) -> None:
        """Keep the output of a task."""

    @abstractmethod
    def increment_attempts(self, task_id: str) -> None:
        """Count one more attempt at a task."""

    @abstractmethod
    def get_task(self, task_id: str) -> Task | None:
        """Return a task by its id, or None."""


class Executor(ABC):
    """Does the work of a task. `execute` may also be a coroutine function.

    A parameter named `context` receives the `RunContext` of the run.
    """

    @abstractmethod
    def execute(self, task: Task) -> ExecutionResult:
        """Execute a task and return its result."""


class Verifier(ABC):
    """Judges a result. `verify` may also be a coroutine function.

    A parameter named `context` receives the `RunContext` of the run.
    """

    @abstractmethod
    def verify(self, task: Task, result: ExecutionResult) -> VerificationResult:
        """Judge an execution result."""


class SafetyCheck(ABC):
    """Decides, between tasks, whether an embedded run may go on."""

    @abstractmethod
    def allow_continue(self) -> bool:
        """Tell whether the run may take another task."""

    @abstractmethod
    def record_success(self) -> None:
        """Count a completed task."""

    @abstractmethod
    def record_failure(self, error: str) -> None:
        """Count a failed attempt."""

    @abstractmethod
    def get_stop_reason(self) -> str | None:
        """Return why the run was stopped, or None."""


class FinalFailure(Exception):
    """Raised by an executor: this task cannot succeed, do not try again."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Later(Exception):
    """Raised by an executor: not now; give the task back without charging an attempt.

    Args:
        when: seconds from now, or an aware `datetime`.
        reason: one line for the operator.
    """

    def __init__(self, when: Any, reason: str = "") -> None:
        super().__init__(reason or f"later: {when}")
        self.when = when
        self.reason = reason
