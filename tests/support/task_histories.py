"""Drives tasks through the state machine and checks every step on the way."""

from __future__ import annotations

from typing import Any

import msgspec

from orchd.tasks import commands as c
from orchd.tasks import events as e
from orchd.tasks.failures import ErrorClass
from orchd.tasks.invariants import run_violations, state_violations
from orchd.tasks.machine import Refused, Stamped, decide, evolve, fold
from orchd.tasks.state import Phase, ReleaseReason, TaskState

SECOND = 1_000_000
START = 1_700_000_000 * SECOND


def submitted(**changes: Any) -> e.TaskSubmitted:
    """Return a submission with two verifiers and three attempts, some fields changed."""
    fields: dict[str, Any] = {
        "description": "count the words",
        "executor": "fake",
        "verifiers": ("first", "second"),
        "max_attempts": 3,
    }
    return e.TaskSubmitted(**{**fields, **changes})


class History:
    """One task's stream. Every event goes through its stored form before it is folded."""

    def __init__(self, **changes: Any) -> None:
        self.now = START
        self.stream: list[Stamped] = []
        self._state: TaskState | None = None
        self.last_feedback: str | None = None
        self.do(c.Submit(now=self.now, submitted=submitted(**changes)))

    @property
    def state(self) -> TaskState:
        assert self._state is not None
        return self._state

    @property
    def names(self) -> list[str]:
        """The stored names of all events so far, without `task.`."""
        return [e.event_name(item.event).removeprefix("task.") for item in self.stream]

    def do(self, command: c.TaskCommand) -> tuple[e.TaskEvent, ...]:
        """Carry out a command; return its events.

        Raises:
            Refused: the state machine refused it; nothing has changed.
        """
        events = decide(self._state, command)
        for event in events:
            self._append(event)
        if self._state is not None:
            assert state_violations(self.state) == []
            assert run_violations(item.event for item in self.stream) == []
        return events

    def refuses(self, command: c.TaskCommand) -> str:
        """Return the code with which the command is refused."""
        try:
            events = self.do(command)
        except Refused as refused:
            return refused.code
        raise AssertionError(f"{command} was accepted and caused {events}")

    def _append(self, event: e.TaskEvent) -> None:
        before = self._state
        version = 1 if before is None else before.version + 1
        meta = e.EventMeta(schema=e.SCHEMA_VERSION, at=self.now)
        text = e.encode(event)
        read = e.decode_event(e.event_name(event), text)
        assert e.encode(read) == text
        stamped = Stamped("t", version, read, e.decode_meta(e.encode(meta)))
        after = evolve(before, stamped)
        # What was just decided and what will be read from the log give one state.
        assert evolve(before, Stamped("t", version, event, meta)) == after
        self.stream.append(stamped)
        self._state = after
        assert after.version == version
        if before is not None:
            self._check_step(before, event, after)

    def _check_step(self, before: TaskState, event: e.TaskEvent, after: TaskState) -> None:
        is_start = isinstance(event, e.TaskStarted)
        assert after.runs == before.runs + is_start
        assert after.round == before.round + isinstance(event, e.TaskRequeued)
        if isinstance(event, e.TaskStarted):
            self._check_start(before, event, after)
        elif isinstance(event, e.TaskReleased):
            assert after.attempts == before.attempts - (before.phase is Phase.EXECUTE)
        elif isinstance(event, e.TaskVerified) and not event.passed:
            self.last_feedback = event.feedback
        elif isinstance(event, e.TaskFailed) and event.error_class == "crashed":
            assert before.alone
        elif isinstance(event, e.TaskExecuted):
            assert not before.has_result
        elif isinstance(event, e.TaskLateResultRejected):
            assert after == msgspec.structs.replace(before, version=after.version)

    def _check_start(
        self, before: TaskState, event: e.TaskStarted, after: TaskState
    ) -> None:
        assert event.token == after.token == after.version
        assert event.phase == ("verify" if before.has_result else "execute")
        assert after.attempts == before.attempts + (not before.has_result)
        assert after.feedback == self.last_feedback

    def refold(self) -> None:
        """Check that folding the whole stream gives the state."""
        assert fold(self.stream) == self.state

    # --- shorthands -------------------------------------------------------------------

    def start(self, worker: str = "w", max_crashes: int = 3) -> tuple[e.TaskEvent, ...]:
        """Claim the task as soon as it is ready."""
        self.now = max(self.now, self.state.waiting_until or 0)
        return self.do(c.Start(now=self.now, worker=worker, max_crashes=max_crashes))

    def report(self, kind: type[Any], **fields: Any) -> tuple[e.TaskEvent, ...]:
        """Carry out a command of the run that holds the task."""
        return self.do(self.command(kind, **fields))

    def command(self, kind: type[Any], **fields: Any) -> Any:
        """Return a command of the run that holds the task."""
        held = {"now": self.now, "token": self.state.token or 0, "run": self.state.runs}
        return kind(**{**held, **fields})

    def record(self, result: str = "42") -> tuple[e.TaskEvent, ...]:
        """Record a result."""
        return self.report(c.RecordResult, output=c.Output(result=result))

    def fail(self, **changes: Any) -> tuple[e.TaskEvent, ...]:
        """Fail the execution."""
        fields: dict[str, Any] = {
            "error_class": ErrorClass.EXECUTION_FAILED,
            "error": "it broke",
            "retry_at": self.now,
        }
        return self.report(c.Fail, **{**fields, **changes})

    def refuse(self, feedback: str = "no", **changes: Any) -> tuple[e.TaskEvent, ...]:
        """Refuse the result."""
        verdict = c.Verdict(verifier="first", feedback=feedback)
        return self.report(c.Refuse, verdict=verdict, retry_at=self.now, **changes)

    def break_verifier(self, limit: int = 10, **changes: Any) -> tuple[e.TaskEvent, ...]:
        """Let a verifier give no verdict."""
        return self.report(
            c.FailVerification,
            verifier="first",
            error="down",
            retry_at=self.now + SECOND,
            max_verify_errors=limit,
            **changes,
        )

    def release(self, reason: str = "drain", **changes: Any) -> tuple[e.TaskEvent, ...]:
        """Give the task back."""
        return self.report(c.Release, reason=ReleaseReason(reason), **changes)

    def crash(self) -> tuple[e.TaskEvent, ...]:
        """Let the worker die."""
        return self.do(c.Recover(now=self.now, worker=self.state.worker or ""))

    def cancel(self) -> tuple[e.TaskEvent, ...]:
        """Ask for the task to be stopped."""
        return self.do(c.Cancel(now=self.now))

    def requeue(self, *, verify_only: bool = False) -> tuple[e.TaskEvent, ...]:
        """Give a dead letter a new round."""
        return self.do(c.Requeue(now=self.now, verify_only=verify_only))
