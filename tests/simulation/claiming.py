"""What a claim may have."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from orchd.breakers import BreakerState, Position
from orchd.interfaces import TaskStatus
from orchd.ledger.port import ClaimTasks
from orchd.queues import QueueState
from orchd.tasks.state import Phase, TaskState
from simulation.schedule import Schedule


@lru_cache(maxsize=256)
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")), re.DOTALL)


def serves(patterns: tuple[str, ...], queue: str) -> bool:
    """Tell whether a queue is among those named; `*` stands for any text."""
    if "*" in patterns or queue in patterns:
        return True
    return any("*" in p and _expression(p).fullmatch(queue) for p in patterns)


class Search:
    """Finds what one claim may have, in the order of claims."""

    def __init__(
        self,
        claim: ClaimTasks,
        tasks: Mapping[str, TaskState],
        queues: Mapping[str, QueueState],
        breakers: Mapping[str, BreakerState],
    ) -> None:
        self._claim = claim
        self._tasks = tasks
        self._queues = queues
        self._breakers = breakers

    def found(self, schedule: Schedule, room: dict[str, int]) -> list[TaskState]:
        """Return what is claimed, and take it from the room that limits leave."""
        claim = self._claim
        found: list[TaskState] = []
        for state in self._eligible(schedule, self._may_start):
            if len(found) >= claim.slots:
                break
            if room.get(state.queue, 1) <= 0:
                continue
            if not found and claim.gate is not None and not claim.gate():
                break
            if state.queue in room:
                room[state.queue] -= 1
            found.append(state)
        return found

    def sees_alone(self, schedule: Schedule) -> bool:
        """Tell whether a ready task wants to run alone."""
        claim = self._claim
        if claim.alone or claim.probe is not None:
            return False
        alone = self._eligible(schedule, lambda s: s.crashes >= claim.max_crashes)
        return next(alone, None) is not None

    def _eligible(
        self, schedule: Schedule, wanted: Callable[[TaskState], bool]
    ) -> Iterator[TaskState]:
        for _, _, task_id in schedule.ready:
            state = self._tasks[task_id]
            queue = self._queues.get(state.queue)
            if queue is not None and queue.paused:
                continue
            if not serves(self._claim.queues, state.queue) or not wanted(state):
                continue
            if self._is_able(state):
                yield state

    def _may_start(self, state: TaskState) -> bool:
        claim = self._claim
        if (state.crashes >= claim.max_crashes) is not claim.alone:
            return False
        if state.status is not TaskStatus.PENDING:
            return False
        return state.waiting_reason is None or (state.waiting_until or 0) <= claim.now

    def _is_able(self, state: TaskState) -> bool:
        claim = self._claim
        breaker = self._breakers.get(state.executor)
        if claim.probe is not None:
            return (
                state.phase is Phase.EXECUTE
                and state.executor == claim.probe
                and state.executor in claim.executors
                and breaker is not None
                and breaker.position is Position.HALF_OPEN
                and breaker.worker == claim.worker
            )
        if state.phase is Phase.VERIFY:
            return set(state.verifiers) <= set(claim.verifiers)
        closed = breaker is None or breaker.position is Position.CLOSED
        return closed and state.executor in claim.executors
