"""Tells observers what the process's own commits changed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from orchd.engine.observer import CommitTiming, Observer, PhaseTiming, TaskNews
from orchd.executors.port import Success
from orchd.ledger.port import (
    Acted,
    ActOnTask,
    BreakerActed,
    Claimed,
    Outcome,
    QueueSet,
    Recorded,
    Request,
    SubmitTask,
    Submitted,
)
from orchd.tasks.events import TaskStarted
from orchd.tasks.state import TaskState

logger = logging.getLogger(__name__)


class Newsroom:
    """Passes news on to every observer and survives each of them."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers: tuple[Observer, ...] = ()
        # What happens once a task or more is told only to those who listen to it.
        self._of_moves: tuple[Observer, ...] = ()
        self._of_phases: tuple[Observer, ...] = ()
        self._of_traces: tuple[Observer, ...] = ()
        self._set(observers)

    def add(self, observer: Observer) -> None:
        """Tell one more observer from now on."""
        self._set((*self._observers, observer))

    def _set(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)
        self._of_moves = self._that_override(Observer.task_moved)
        self._of_phases = self._that_override(Observer.phase_ended)
        self._of_traces = self._that_override(Observer.traceparent)

    def _that_override(self, method: Callable[..., object]) -> tuple[Observer, ...]:
        name = method.__name__
        return tuple(o for o in self._observers if getattr(type(o), name) is not method)

    def committed(
        self, requests: Sequence[Request], outcomes: Sequence[Outcome], seconds: float
    ) -> None:
        """Report a commit and every task that it moved."""
        if not self._observers:
            return
        moves, others = list[TaskNews](), 0
        for request, outcome in zip(requests, outcomes, strict=True):
            if isinstance(outcome, _OF_OTHERS):
                others += _count_events(outcome)
            else:
                moves += _task_news(request, outcome)
        for observer in self._of_moves:
            _tell_moves(observer, moves)
        events = others + sum(len(news.events) for news in moves)
        timing = CommitTiming(seconds=seconds, requests=len(requests), events=events)
        self._tell(self._observers, lambda observer: observer.committed(timing))

    def phase_ended(self, timing: PhaseTiming) -> None:
        """Report the end of an execution or a verification."""
        for observer in self._of_phases:
            try:
                observer.phase_ended(timing)
            except Exception:
                logger.exception("observer %s failed", type(observer).__name__)

    def lease_lost(self, worker: str) -> None:
        """Report that this process's worker was fenced."""
        self._tell(self._observers, lambda observer: observer.lease_lost(worker))

    def traceparent(self, state: TaskState) -> str | None:
        """Return the trace context that a run hands on: a tracer's, or the submitter's."""
        for observer in self._of_traces:
            try:
                traceparent = observer.traceparent(state)
            except Exception:
                logger.exception("observer %s failed", type(observer).__name__)
                continue
            if traceparent is not None:
                return traceparent
        return state.traceparent

    def _tell(self, observers: Sequence[Observer], deliver: Callable[..., None]) -> None:
        for observer in observers:
            try:
                deliver(observer)
            except Exception:
                logger.exception("observer %s failed", type(observer).__name__)


def _tell_moves(observer: Observer, moves: Sequence[TaskNews]) -> None:
    for news in moves:
        try:
            observer.task_moved(news)
        except Exception:
            logger.exception("observer %s failed", type(observer).__name__)


_OF_OTHERS = (QueueSet, BreakerActed, Recorded)
"""Outcomes of requests that concern no task."""


def _count_events(outcome: QueueSet | BreakerActed | Recorded) -> int:
    return 1 if isinstance(outcome, Recorded) else len(outcome.events)


def _task_news(request: Request, outcome: Outcome) -> list[TaskNews]:
    if isinstance(outcome, Acted) and isinstance(request, ActOnTask):
        if not outcome.events:
            return []
        news = TaskNews(
            before=request.known,
            after=outcome.state,
            events=outcome.events,
            output=_output_of(request.command),
        )
        return [news]
    if isinstance(outcome, Claimed):
        return [_claim_news(claimed) for claimed in outcome.tasks]
    if isinstance(outcome, Submitted) and isinstance(request, SubmitTask):
        if not outcome.created:
            return []
        submitted = (request.command.submitted,)
        return [TaskNews(before=None, after=outcome.state, events=submitted)]
    return []


def _claim_news(claimed: Any) -> TaskNews:
    state = claimed.state
    started = TaskStarted(
        run=state.runs,
        attempt=state.attempts,
        phase=state.phase.value,
        token=state.token or 0,
        worker=state.worker or "",
        deadline=state.deadline,
        alone=state.alone,
    )
    return TaskNews(before=claimed.before, after=state, events=(started,))


def _output_of(command: Any) -> Success | None:
    output = getattr(command, "output", None)
    if output is None or not isinstance(output.result, str):
        return None
    return Success(output=output.result, confidence=output.confidence)
