"""Watches what the executors of this worker depend on, and opens and closes breakers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from orchd.breakers import BreakerState, Close, Open, Position, Probe, may_probe
from orchd.config.settings import BreakerSettings, Settings
from orchd.engine.clock import LedgerClock
from orchd.executors.port import Deferred, ExecutorAnswer, Failure
from orchd.ledger.port import (
    ActOnBreaker,
    BreakerActed,
    Ledger,
    Origin,
    Outcome,
    Request,
)
from orchd.system import MICROSECONDS_PER_SECOND
from orchd.tasks.failures import DEPENDENCY_CLASSES

Offer = Callable[[Request], "asyncio.Future[Outcome]"]


class BreakerWatch:
    """Counts dependency failures in a row; the transitions themselves are events.

    The count lives in this process, the position of each breaker in the ledger, where
    every worker sees it.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        clock: LedgerClock,
        settings: Callable[[], Settings],
        worker_id: Callable[[], str],
        offer: Offer,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._settings = settings
        self._worker_id = worker_id
        self._offer = offer
        self._failures: dict[str, int] = {}
        self._states: dict[str, BreakerState] = {}
        self._probed: dict[str, int] = {}
        """Executor -> version of the half-open breaker that has its one task."""

    def heard(self, executor: str, answer: ExecutorAnswer) -> None:
        """Count an executor's answer."""
        if is_dependency_failure(answer):
            self._failures[executor] = self._failures.get(executor, 0) + 1
            self._failed(executor, _error_of(answer))
        else:
            self._failures.pop(executor, None)
            if self._is_my_probe(executor):
                self._act(executor, Close(now=self._clock.now()))

    def open_until(self, executor: str, answer: Failure) -> int | None:
        """Return when to try again, if this failure met a breaker that is not closed."""
        state = self._states.get(executor)
        if state is None or not is_dependency_failure(answer):
            return None
        return None if state.position is Position.CLOSED else state.until

    def probes(self) -> tuple[str, ...]:
        """Return the executors whose half-open breaker waits for this worker's probe."""
        return tuple(
            name
            for name in self._states
            if self._is_my_probe(name) and not self._is_sent(name)
        )

    def probe_started(self, executor: str) -> None:
        """Note that the probe is at work: one task is all that a half-open breaker gets."""
        self._probed[executor] = self._states[executor].version

    async def refresh(self) -> None:
        """Read all breakers; they are what they were as long as the log is."""
        self._states = {state.name: state for state in await self._ledger.breakers()}

    async def begin_probes(self, executors: Iterable[str]) -> bool:
        """Begin the probes that are due; True when there are any to claim for."""
        due = [name for name in executors if await self._is_probe_due(name)]
        for name in due:
            await self._probe(name)
        return bool(due)

    async def _is_probe_due(self, executor: str) -> bool:
        state = self._states.get(executor)
        if state is None or not may_probe(state, self._clock.now()):
            return False
        if self._is_my_probe(executor) and not self._is_sent(executor):
            return False
        if state.position is Position.HALF_OPEN and await self._ledger.has_probe(state):
            # However long it takes, its answer is what everybody waits for.
            return False
        return await self._ledger.has_waiting(executor)

    async def _probe(self, executor: str) -> None:
        if self._is_my_probe(executor):
            # The probe ended without an answer: it was cancelled, or gave way to a drain.
            # The right to send one is still this worker's.
            self._probed.pop(executor, None)
            return
        patience = self._limits(executor).cooldown_seconds
        command = Probe(
            now=self._clock.now(),
            worker=self._worker_id(),
            patience=_microseconds(patience),
        )
        self._note(executor, await self._offer(self._request(executor, command)))

    def _failed(self, executor: str, error: str) -> None:
        limits = self._limits(executor)
        failures = self._failures[executor]
        if failures < limits.failures and not self._is_my_probe(executor):
            return
        cooldown = _microseconds(limits.cooldown_seconds)
        self._act(
            executor,
            Open(now=self._clock.now(), failures=failures, error=error, cooldown=cooldown),
        )

    def _act(self, executor: str, command: Open | Close) -> None:
        state = self._states.get(executor)
        opened = state is not None and state.position is Position.OPEN
        if isinstance(command, Open) and opened:
            return
        future = self._offer(self._request(executor, command))
        future.add_done_callback(lambda done: self._note_done(executor, done))

    def _note_done(self, executor: str, future: asyncio.Future[Outcome]) -> None:
        if not future.cancelled() and future.exception() is None:
            self._note(executor, future.result())

    def _note(self, executor: str, outcome: Outcome) -> None:
        if not isinstance(outcome, BreakerActed) or outcome.state is None:
            return
        # Two commits may be answered in another order than they were made in.
        known = self._states.get(executor)
        if known is None or known.version <= outcome.state.version:
            self._states[executor] = outcome.state

    def _request(self, executor: str, command: Open | Close | Probe) -> ActOnBreaker:
        origin = Origin(actor="worker", worker=self._worker_id())
        return ActOnBreaker(name=executor, command=command, origin=origin)

    def _is_my_probe(self, executor: str) -> bool:
        state = self._states.get(executor)
        if state is None or state.position is not Position.HALF_OPEN:
            return False
        return state.worker == self._worker_id()

    def _is_sent(self, executor: str) -> bool:
        return self._probed.get(executor) == self._states[executor].version

    def _limits(self, executor: str) -> BreakerSettings:
        settings = self._settings()
        configured = settings.executors.get(executor)
        return settings.breaker if configured is None else configured.breaker


def is_dependency_failure(answer: ExecutorAnswer) -> bool:
    """Tell whether an answer speaks of the dependency and not of the task."""
    if isinstance(answer, Deferred):
        return answer.dependency
    return isinstance(answer, Failure) and answer.error_class in DEPENDENCY_CLASSES


def _error_of(answer: ExecutorAnswer) -> str:
    if isinstance(answer, Deferred):
        return answer.reason or "not available, try again later"
    return answer.error.partition("\n")[0] if isinstance(answer, Failure) else ""


def _microseconds(seconds: float) -> int:
    return round(seconds * MICROSECONDS_PER_SECOND)
