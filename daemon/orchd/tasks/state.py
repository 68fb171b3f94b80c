"""The state of one task: what its events add up to, and one row of table `tasks`."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from orchd.interfaces import TaskStatus

TERMINAL = frozenset(
    {
        TaskStatus.COMPLETED,
        TaskStatus.FAILED,
        TaskStatus.CANCELLED,
        TaskStatus.DISCARDED,
    }
)
"""Statuses in which nothing happens by itself any more."""


class Phase(StrEnum):
    """What a run, or the next run of a pending task, has to do."""

    EXECUTE = "execute"
    VERIFY = "verify"


class WaitingReason(StrEnum):
    """Why a pending task is not ready. The values are public."""

    TIME = "time"
    BACKOFF = "backoff"
    DEPENDENCY = "dependency"
    SIGNAL = "signal"
    APPROVAL = "approval"
    BREAKER = "breaker"
    BUDGET = "budget"
    LIMIT = "limit"
    QUEUE_PAUSED = "queue paused"
    EXECUTOR_MISSING = "executor missing"


class ReleaseReason(StrEnum):
    """Why a run ended without a verdict. The values are stored: add only."""

    DRAIN = "drain"
    WORKER_LOST = "worker_lost"
    BREAKER = "breaker"
    BUDGET = "budget"
    LATER = "later"
    VERIFIER_ERROR = "verifier_error"
    EXECUTOR_MISSING = "executor_missing"


class TaskDraft(msgspec.Struct, gc=False):
    """Everything known of a task, while its events are being added up.

    Field names are the column names of `tasks`. Instants are microseconds since the epoch,
    UTC. A body (`description`, `payload`, `result`) is either inline text or, in the field
    with `_blob`, the hash of a blob.
    """

    id: str
    version: int
    namespace: str
    status: TaskStatus
    phase: Phase
    queue: str
    priority: int
    lane: str | None
    executor: str
    verifiers: tuple[str, ...]
    description: str | None
    description_blob: str | None
    payload: str | None
    payload_blob: str | None
    metadata: str | None
    labels: str | None
    parent_id: str | None
    idempotency_key: str | None
    body_hash: str
    traceparent: str | None
    max_attempts: int
    execute_timeout_seconds: float | None
    verify_timeout_seconds: float | None
    created_at: int
    updated_at: int
    run_at: int
    waiting_reason: str | None = None
    waiting_until: int | None = None
    waiting_ref: str | None = None
    round: int = 1
    runs: int = 0
    attempts: int = 0
    crashes: int = 0
    deferrals: int = 0
    verify_errors: int = 0
    passed_verifiers: tuple[str, ...] = ()
    token: int | None = None
    worker: str | None = None
    alone: bool = False
    started_at: int | None = None
    deadline: int | None = None
    cancel_requested: bool = False
    result: str | None = None
    result_blob: str | None = None
    result_metadata: str | None = None
    confidence: float | None = None
    error: str | None = None
    error_class: str | None = None
    fingerprint: str | None = None
    feedback: str | None = None
    finished_at: int | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether nothing happens to the task by itself any more."""
        return self.status in TERMINAL

    @property
    def has_result(self) -> bool:
        """Whether a result is recorded, judged or not."""
        return self.result is not None or self.result_blob is not None


class TaskState(TaskDraft, frozen=True):  # type: ignore[misc]  # the mixture is meant
    """Everything known of a task after an event: the fields of `TaskDraft`, for good."""


IMMUTABLE_FIELDS = frozenset(
    {
        "id",
        "namespace",
        "queue",
        "priority",
        "lane",
        "executor",
        "verifiers",
        "description",
        "description_blob",
        "payload",
        "payload_blob",
        "metadata",
        "labels",
        "parent_id",
        "idempotency_key",
        "body_hash",
        "traceparent",
        "max_attempts",
        "execute_timeout_seconds",
        "verify_timeout_seconds",
        "created_at",
    }
)
"""What `task.submitted` fixes for ever; a row's update leaves these columns alone."""
