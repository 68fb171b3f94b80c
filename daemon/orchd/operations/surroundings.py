"""What a pending task may have to wait for, besides its own time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from orchd.breakers import BreakerState, Position
from orchd.config.settings import Settings
from orchd.interfaces import TaskStatus
from orchd.ledger.port import QueueView, WorkerView
from orchd.tasks.state import Phase, TaskState, WaitingReason


class Obstacle(NamedTuple):
    """Why a pending task is not ready; `until` in microseconds, when it is known."""

    reason: str
    until: int | None
    ref: str | None


class Surroundings(NamedTuple):
    """Queues, breakers and live daemons at one instant."""

    now: int
    queues: Mapping[str, QueueView]
    breakers: Mapping[str, BreakerState]
    workers: Sequence[WorkerView]
    limits: Mapping[str, int]
    """Queue name -> most tasks in progress, for queues that have a limit."""

    @property
    def live_workers(self) -> list[WorkerView]:
        """The daemons whose lease holds."""
        return [
            worker
            for worker in self.workers
            if not worker.fenced and worker.expires_at > self.now
        ]


def limits_of(settings: Settings) -> dict[str, int]:
    """Return the limits that the configuration sets."""
    return {
        name: queue.concurrency
        for name, queue in settings.queues.items()
        if queue.concurrency > 0
    }


def obstacle(state: TaskState, around: Surroundings) -> Obstacle | None:
    """Return what keeps a pending task from being claimed, or None.

    What the task itself waits for comes first, then what stands in its way. Without any
    live daemon a task waits for nothing in particular: the first daemon may take it.
    """
    if state.status is not TaskStatus.PENDING:
        return None
    return (
        _own(state, around)
        or _paused(state, around)
        or _missing(state, around)
        or _broken(state, around)
        or _limited(state, around)
    )


def _own(state: TaskState, around: Surroundings) -> Obstacle | None:
    if state.waiting_reason is None:
        return None
    if state.waiting_until is not None and state.waiting_until <= around.now:
        return None
    return Obstacle(state.waiting_reason, state.waiting_until, state.waiting_ref)


def _paused(state: TaskState, around: Surroundings) -> Obstacle | None:
    queue = around.queues.get(state.queue)
    if queue is None or not queue.paused:
        return None
    return Obstacle(WaitingReason.QUEUE_PAUSED.value, None, state.queue)


def _missing(state: TaskState, around: Surroundings) -> Obstacle | None:
    live = around.live_workers
    if not live:
        return None
    if state.phase is Phase.EXECUTE:
        if any(state.executor in worker.executors for worker in live):
            return None
        return Obstacle(WaitingReason.EXECUTOR_MISSING.value, None, state.executor)
    needed = set(state.verifiers) - set(state.passed_verifiers)
    if any(needed <= set(worker.verifiers) for worker in live):
        return None
    lacking = needed.difference(*(worker.verifiers for worker in live)) or needed
    missing = ", ".join(f"verifier {name}" for name in sorted(lacking))
    return Obstacle(WaitingReason.EXECUTOR_MISSING.value, None, missing)


def _broken(state: TaskState, around: Surroundings) -> Obstacle | None:
    breaker = around.breakers.get(state.executor)
    if breaker is None or breaker.position is Position.CLOSED:
        return None
    if state.phase is not Phase.EXECUTE:
        return None
    return Obstacle(WaitingReason.BREAKER.value, breaker.until, state.executor)


def _limited(state: TaskState, around: Surroundings) -> Obstacle | None:
    limit = around.limits.get(state.queue)
    queue = around.queues.get(state.queue)
    if limit is None or queue is None:
        return None
    if queue.depth.get(TaskStatus.IN_PROGRESS.value, 0) < limit:
        return None
    return Obstacle(WaitingReason.LIMIT.value, None, state.queue)
