"""What the simulation looks for, by name. A failure says which of these was broken."""

from __future__ import annotations

from enum import StrEnum


class Invariant(StrEnum):
    """The rules that are checked while a seed runs; the text is what a failure says."""

    ACKNOWLEDGED = "an acknowledged submission exists"
    AFTER_COMMIT = "nothing is acknowledged before its commit was applied"
    DENSE = "positions and versions are dense"
    FOLD = "a row is the fold of its stream"
    DERIVED = "derived tables and counters follow from the rows"
    LEGAL = "every state is legal"
    RUN_ENDS_ONCE = "each run ends exactly once"
    ROUND_OVER = "nothing moves a task after the end of its round but a requeue"
    ATTEMPTS = "attempts are charged for executions and given back by releases"
    TOKEN = "a completion carries the token of its run"
    RESULT = "a stored result is what that very run produced"
    EXECUTED_AGAIN = "a recorded result is never executed again"
    WITNESS = "whatever executes was claimed by that worker before"
    EXECUTED_TWICE = "a claim is executed at most once"
    CRASH_ALONE = "a crash dead-letters only a task that ran alone"
    ALONE = "nothing runs beside a task that must run alone"
    CORNERED = "whatever crashed too often is started alone, and nothing else is"
    LIMIT = "a claim never exceeds its queue's limit"
    SLOTS = "a worker has no more runs at work than slots"
    CAPABLE = "a worker claims only what it may and can"
    LATE = "a late result changes nothing"
    REPORTED_TWICE = "no run reports its end twice"
    FENCED = "a fenced worker claims nothing"
    FENCED_ALIVE = "only a worker that is dead, or whose lease has run out, is fenced"
    OUTAGE = "losing the database fences nobody"
    RECOVERED = "only a fenced worker, or a lost run, loses a task"
    LOST_RUN = "a worker loses no run without an error"
    TIME_LIMIT = "no run is stopped for its time before that time has passed"
    EXCLUSIVE = "an exclusive execution stops when its lease has run out"
    CANCELLED = "a cancelled task ends cancelled or completed"
    REPEATED = "after an unknown outcome the identical batch is repeated first"
    UNFORESEEN = "the engine meets no error that it does not foresee"
    LIVENESS = "when faults stop, everything that can finish does"
    SPIN = "nothing starts again and again to no end"
    DRAIN = "a drain ends in time and leaves nothing behind"


class Violation(AssertionError):
    """A rule was broken; the message names it."""

    def __init__(self, invariant: Invariant, detail: str, seconds: float) -> None:
        super().__init__(f"invariant broken at {seconds:.6f} s: {invariant}\n{detail}")
        self.invariant = invariant
        self.detail = detail
