"""What must be true of one task, told from its events alone.

The model follows the log, never the rows, and counts for itself what `evolve` counts, so
that neither can hide an error of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import msgspec

from orchd.interfaces import TaskStatus
from orchd.ledger.port import LogEntry
from orchd.tasks import events as e
from orchd.tasks.failures import ErrorClass
from orchd.tasks.invariants import ended_run, state_violations
from orchd.tasks.machine import BrokenStream, Stamped, evolve
from orchd.tasks.state import Phase, TaskState
from simulation.violations import Invariant

Broken: TypeAlias = tuple[Invariant, str]

RUNS_MAX = 150
"""More runs than any task has that is not started and given back again and again."""
_ENDS_OF_ROUNDS = (e.TaskCompleted, e.TaskFailed, e.TaskCancelled)
_AFTER_THE_END = (e.TaskRequeued, e.TaskDiscarded, e.TaskLateResultRejected, e.TaskErased)


class Start(NamedTuple):
    """A claim, as its event tells it."""

    run: int
    token: int
    worker: str
    phase: str
    alone: bool


class TaskModel:
    """One task as its events tell of it."""

    def __init__(self, task_id: str) -> None:
        self.id = task_id
        self.state: TaskState | None = None
        self.start: Start | None = None
        """The claim whose run goes on."""
        self.starts: dict[int, Start] = {}
        """Every claim by its token."""
        self.reported: set[int] = set()
        """Tokens of runs whose own report ended them."""
        self._released_for = ""
        self._versions = 0
        self._runs = 0
        self._attempts = 0
        self._is_recorded = False
        self._is_round_over = False
        self._is_cancel_wanted = False

    @property
    def is_running(self) -> bool:
        """Whether a run goes on."""
        return self.start is not None

    def follow(self, entry: LogEntry, event: e.TaskEvent) -> Iterator[Broken]:
        """Take in one more event; yield what it breaks."""
        before = self.state
        self._versions += 1
        if entry.version != self._versions:
            yield Invariant.DENSE, f"version {entry.version}, not {self._versions}"
        if self._is_round_over and not isinstance(event, _AFTER_THE_END):
            yield Invariant.ROUND_OVER, f"{entry.type} after the end of the round"
        follow = _FOLLOWERS.get(type(event))
        if follow is not None:
            yield from follow(self, event)
        if ended_run(event) is not None:
            yield from self._end(event)
        if isinstance(event, _ENDS_OF_ROUNDS):
            self._is_round_over = True
        yield from self._fold(before, entry, event)

    def _fold(
        self, before: TaskState | None, entry: LogEntry, event: e.TaskEvent
    ) -> Iterator[Broken]:
        stamped = Stamped(self.id, entry.version, event, e.decode_meta(entry.meta))
        try:
            after = evolve(before, stamped)
        except BrokenStream as broken:
            yield Invariant.FOLD, str(broken)
            return
        self.state = after
        if isinstance(event, e.TaskLateResultRejected):
            yield from _late_changes(before, after)
        for rule in state_violations(after):
            yield Invariant.LEGAL, f"{rule}: {after}"
        if after.attempts != self._attempts:
            counted = f"{self._attempts} were charged, the row says {after.attempts}"
            yield Invariant.ATTEMPTS, f"{counted} after {entry.type}"

    # --- events -----------------------------------------------------------------------

    def _started(self, event: e.TaskStarted) -> Iterator[Broken]:
        if self.start is not None:
            yield Invariant.RUN_ENDS_ONCE, f"run {event.run} began before the last ended"
        if event.run != self._runs + 1:
            yield Invariant.RUN_ENDS_ONCE, f"run {event.run} follows run {self._runs}"
        if event.run > RUNS_MAX:
            yield (
                Invariant.SPIN,
                f"run {event.run}, the last released: {self._released_for}",
            )
        if event.token != self._versions:
            yield Invariant.TOKEN, f"token {event.token} at version {self._versions}"
        if event.phase == Phase.EXECUTE:
            self._attempts += 1
            if self.state is not None and self.state.has_result:
                yield Invariant.EXECUTED_AGAIN, f"run {event.run} has a result already"
        self._runs = event.run
        self._is_recorded = event.phase == Phase.VERIFY
        self.start = Start(event.run, event.token, event.worker, event.phase, event.alone)
        self.starts[event.token] = self.start

    def _executed(self, event: e.TaskExecuted) -> Iterator[Broken]:
        if self._is_recorded:
            yield Invariant.EXECUTED_AGAIN, f"run {event.run} recorded a second result"
        self._is_recorded = True

    def _completed(self, event: e.TaskCompleted) -> Iterator[Broken]:
        token = None if self.start is None else self.start.token
        if event.token != token:
            yield Invariant.TOKEN, f"completed with {event.token}, the run has {token}"
        if (event.result is None) is not self._is_recorded:
            yield Invariant.EXECUTED_AGAIN, "completed with another result than recorded"

    def _failed(self, event: e.TaskFailed) -> Iterator[Broken]:
        alone = self.start is not None and self.start.alone
        if event.error_class == ErrorClass.CRASHED and not alone:
            yield Invariant.CRASH_ALONE, f"run {event.run} did not run alone"

    def _released(self, event: e.TaskReleased) -> Iterator[Broken]:
        if not self._is_recorded:
            self._attempts -= 1
        self._released_for = event.reason
        yield from ()

    def _cancel_requested(self, event: e.TaskCancelRequested) -> Iterator[Broken]:
        self._is_cancel_wanted = True
        yield from ()

    def _requeued(self, event: e.TaskRequeued) -> Iterator[Broken]:
        if not self._is_round_over:
            yield Invariant.ROUND_OVER, "requeued before the end of the round"
        self._is_round_over = False
        self._attempts = 0

    def _late(self, event: e.TaskLateResultRejected) -> Iterator[Broken]:
        start = self.starts.get(event.token)
        if start is None or start.run != event.run:
            yield Invariant.WITNESS, f"a report of run {event.run} that never was"
        if event.token in self.reported:
            yield (
                Invariant.REPORTED_TWICE,
                f"run {event.run} ended, then sent {event.report}",
            )

    def _end(self, event: e.TaskEvent) -> Iterator[Broken]:
        run = ended_run(event)
        start, self.start = self.start, None
        if start is None or start.run != run:
            yield Invariant.RUN_ENDS_ONCE, f"run {run} ended while it was not going on"
        if self._is_cancel_wanted:
            self._is_cancel_wanted = False
            if not isinstance(event, e.TaskCancelled | e.TaskCompleted):
                yield Invariant.CANCELLED, f"run {run} ended by {event}"

    @property
    def is_terminal(self) -> bool:
        """Whether the task is at the end of a round."""
        return self.state is not None and self.state.is_terminal

    @property
    def is_pending(self) -> bool:
        """Whether the task waits to be claimed."""
        return self.state is not None and self.state.status is TaskStatus.PENDING


def _late_changes(before: TaskState | None, after: TaskState) -> Iterator[Broken]:
    if before is None or after != msgspec.structs.replace(before, version=after.version):
        yield Invariant.LATE, "more than the version changed"


_FOLLOWERS: dict[type[Any], Callable[[TaskModel, Any], Iterator[Broken]]] = {
    e.TaskStarted: TaskModel._started,
    e.TaskExecuted: TaskModel._executed,
    e.TaskCompleted: TaskModel._completed,
    e.TaskFailed: TaskModel._failed,
    e.TaskReleased: TaskModel._released,
    e.TaskCancelRequested: TaskModel._cancel_requested,
    e.TaskRequeued: TaskModel._requeued,
    e.TaskLateResultRejected: TaskModel._late,
}
