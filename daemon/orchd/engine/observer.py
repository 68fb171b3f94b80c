"""What the engine tells whoever watches it: hooks, metrics, traces.

The engine calls observers on its event loop right after the commit that made the news
true. An observer must return at once; what takes time it hands to a queue of its own. One
that raises changes nothing but a line in the log.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from orchd.executors.port import RunContext, Success
from orchd.tasks.events import TaskEvent
from orchd.tasks.state import TaskState


class TaskNews(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One task moved; the events are on disk."""

    before: TaskState | None
    """None for a submission, and where the state before is not known."""
    after: TaskState
    events: tuple[TaskEvent, ...]
    output: Success | None = None
    """The result, for the commit that completed the task."""


class PhaseTiming(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One execution or one verifier's verification came to its end."""

    context: RunContext
    phase: str
    """`execute` or `verify`."""
    executor: str
    verifier: str | None
    seconds: float
    started_at: int
    outcome: str
    """Lower-case name of the answer's type: `success`, `failure`, `passed`, …"""


class CommitTiming(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One commit returned."""

    seconds: float
    requests: int
    events: int


class Observer:
    """Ignores everything; subclass and override what you want to hear."""

    def task_moved(self, news: TaskNews) -> None:
        """A task moved, by this process's doing."""

    def phase_ended(self, timing: PhaseTiming) -> None:
        """An execution or a verification ended."""

    def committed(self, timing: CommitTiming) -> None:
        """A commit returned."""

    def lease_lost(self, worker: str) -> None:
        """This process's worker was fenced."""

    def traceparent(self, state: TaskState) -> str | None:
        """Return the W3C trace context that a run hands on; None for the submitter's."""
        return None


Observers = Sequence[Observer]
