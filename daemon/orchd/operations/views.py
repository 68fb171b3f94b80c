"""What orchd shows of tasks, events, queues, breakers and daemons.

The field names of these types are public. Times are RFC 3339 in UTC.
"""

from __future__ import annotations

from typing import Any

import msgspec

from orchd.breakers import BreakerState
from orchd.config.instants import format_instant
from orchd.ledger.port import Bodies, LogEntry, QueueView, WorkerView
from orchd.operations.surroundings import Obstacle, Surroundings, obstacle
from orchd.tasks.state import TaskState

LISTED_BYTES_MAX = 1024
"""How much of a long text a listing shows."""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """The base of what is shown."""


class WaitingView(View, frozen=True, kw_only=True):
    """Why a pending task is not ready."""

    reason: str
    until: str | None
    ref: str | None


class TaskView(View, frozen=True, kw_only=True):
    """A task as it comes out."""

    id: str
    description: str
    payload: Any
    status: str
    phase: str | None
    """`execute` or `verify` while it is in progress, else null."""
    waiting: WaitingView | None
    queue: str
    priority: int
    executor: str
    verifiers: list[str]
    runs: int
    attempts: int
    max_attempts: int
    crashes: int
    result: str | None
    error: str | None
    error_class: str | None
    feedback: str | None
    created_at: str
    updated_at: str
    run_at: str
    version: int
    metadata: Any
    idempotency_key: str | None
    cancel_requested: bool
    round: int
    confidence: float | None
    fingerprint: str | None
    worker: str | None
    traceparent: str | None
    truncated: list[str]
    """Listings only: the fields of which only the beginning, or nothing, is shown."""


class EventView(View, frozen=True, kw_only=True):
    """One event of the log, with the columns of table `events`."""

    position: int
    stream: str
    version: int
    type: str
    data: Any
    meta: Any
    recorded_at: str


class QueueInfo(View, frozen=True, kw_only=True):
    """A queue."""

    name: str
    paused: bool
    reason: str
    depth: dict[str, int]
    oldest_ready_at: str | None
    limit: int | None
    changed_at: str | None
    version: int


class BreakerInfo(View, frozen=True, kw_only=True):
    """An executor's breaker; `state` is `closed`, `half_open` or `open`."""

    name: str
    state: str
    failures: int
    error: str
    until: str | None
    changed_at: str | None
    version: int


class WorkerInfo(View, frozen=True, kw_only=True):
    """A daemon that holds, or held, a lease."""

    id: str
    host: str
    pid: int
    release: str
    executors: list[str]
    verifiers: list[str]
    started_at: str
    renewed_at: str
    expires_at: str
    live: bool


def task_view(state: TaskState, bodies: Bodies, around: Surroundings) -> TaskView:
    """Return a whole task."""
    return _task(state, bodies, around, ())


def listed_task(state: TaskState, bodies: Bodies, around: Surroundings) -> TaskView:
    """Return a task for a listing: long texts cut, a long payload left out."""
    description = cut(bodies.description)
    result = None if bodies.result is None else cut(bodies.result)
    payload = bodies.payload
    if payload is not None and len(payload) > LISTED_BYTES_MAX:
        payload = None
    short = Bodies(description=description, payload=payload, result=result)
    shorter = msgspec.structs.replace(
        state,
        error=None if state.error is None else cut(state.error),
        feedback=None if state.feedback is None else cut(state.feedback),
    )
    truncated = [
        name
        for name, whole, shown in (
            ("description", bodies.description, description),
            ("payload", bodies.payload, payload),
            ("result", bodies.result, result),
            ("error", state.error, shorter.error),
            ("feedback", state.feedback, shorter.feedback),
        )
        if whole != shown
    ]
    return _task(shorter, short, around, truncated)


def cut(text: str) -> str:
    """Return as many characters of a text as fit into `LISTED_BYTES_MAX` of UTF-8."""
    if len(text) * 4 <= LISTED_BYTES_MAX:
        return text
    head = text[:LISTED_BYTES_MAX].encode("utf-8", "replace")[:LISTED_BYTES_MAX]
    return head.decode("utf-8", "ignore")


def event_view(entry: LogEntry) -> EventView:
    """Return an event with its data and meta as JSON."""
    return EventView(
        position=entry.position,
        stream=entry.stream,
        version=entry.version,
        type=entry.type,
        data=msgspec.Raw(entry.data.encode()),
        meta=msgspec.Raw(entry.meta.encode()),
        recorded_at=format_instant(entry.recorded_at),
    )


def queue_info(queue: QueueView, limit: int | None) -> QueueInfo:
    """Return a queue as it is shown."""
    return QueueInfo(
        name=queue.name,
        paused=queue.paused,
        reason=queue.reason,
        depth=dict(queue.depth),
        oldest_ready_at=_time(queue.oldest_ready_at),
        limit=limit,
        changed_at=_time(queue.changed_at),
        version=queue.version,
    )


def breaker_info(breaker: BreakerState) -> BreakerInfo:
    """Return a breaker as it is shown."""
    return BreakerInfo(
        name=breaker.name,
        state=breaker.position.value,
        failures=breaker.failures,
        error=breaker.error,
        until=_time(breaker.until),
        changed_at=_time(breaker.changed_at),
        version=breaker.version,
    )


def worker_info(worker: WorkerView, now: int) -> WorkerInfo:
    """Return a daemon as it is shown."""
    return WorkerInfo(
        id=worker.id,
        host=worker.host,
        pid=worker.pid,
        release=worker.release,
        executors=sorted(worker.executors),
        verifiers=sorted(worker.verifiers),
        started_at=format_instant(worker.started_at),
        renewed_at=format_instant(worker.renewed_at),
        expires_at=format_instant(worker.expires_at),
        live=not worker.fenced and worker.expires_at > now,
    )


def _task(
    state: TaskState,
    bodies: Bodies,
    around: Surroundings,
    truncated: list[str] | tuple[()],
) -> TaskView:
    running = state.status.value == "in_progress"
    return TaskView(
        id=state.id,
        description=bodies.description,
        payload=_raw(bodies.payload),
        status=state.status.value,
        phase=state.phase.value if running else None,
        waiting=_waiting(obstacle(state, around)),
        queue=state.queue,
        priority=state.priority,
        executor=state.executor,
        verifiers=list(state.verifiers),
        runs=state.runs,
        attempts=state.attempts,
        max_attempts=state.max_attempts,
        crashes=state.crashes,
        result=bodies.result,
        error=state.error,
        error_class=state.error_class,
        feedback=state.feedback,
        created_at=format_instant(state.created_at),
        updated_at=format_instant(state.updated_at),
        run_at=format_instant(state.run_at),
        version=state.version,
        metadata=_raw(state.metadata or "{}"),
        idempotency_key=state.idempotency_key,
        cancel_requested=state.cancel_requested,
        round=state.round,
        confidence=state.confidence,
        fingerprint=state.fingerprint,
        worker=state.worker,
        traceparent=state.traceparent,
        truncated=list(truncated),
    )


def _raw(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())


def _waiting(found: Obstacle | None) -> WaitingView | None:
    if found is None:
        return None
    return WaitingView(reason=found.reason, until=_time(found.until), ref=found.ref)


def _time(instant: int | None) -> str | None:
    return None if instant is None else format_instant(instant)
