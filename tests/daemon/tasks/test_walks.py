"""Random walks through a task's life never meet an illegal state."""

from __future__ import annotations

from typing import Any

import hypothesis
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from orchd.interfaces import TaskStatus
from orchd.tasks import commands as c
from orchd.tasks import events as e
from orchd.tasks.failures import ErrorClass
from orchd.tasks.invariants import state_violations
from orchd.tasks.machine import Refused, Stamped, evolve, fold
from orchd.tasks.state import Phase, ReleaseReason
from support.task_histories import SECOND, START, History, submitted

NAMES = st.sampled_from(("first", "second"))
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
CONFIDENCES = st.none() | st.floats()
DELAYS = st.integers(-SECOND, 5 * SECOND)
OUTPUTS = st.builds(c.Output, result=TEXTS, confidence=CONFIDENCES)
VERDICTS = st.builds(
    c.Verdict,
    verifier=NAMES,
    feedback=TEXTS,
    issues=st.lists(TEXTS, max_size=2).map(tuple),
    confidence=CONFIDENCES,
)


def holding(machine: TaskWalk) -> bool:
    return machine.history.state.token is not None


def is_pending(machine: TaskWalk) -> bool:
    return machine.history.state.status is TaskStatus.PENDING


def may_end(machine: TaskWalk) -> bool:
    # A walk that is cancelled too early sees little of the machine.
    return machine.history.state.runs >= 2


class TaskWalk(RuleBasedStateMachine):
    """Sends a task whatever a worker, an operator or a zombie could send."""

    def __init__(self) -> None:
        super().__init__()
        self.history: History
        self.tokens = [0]

    @initialize(
        max_attempts=st.integers(1, 3),
        verifiers=st.sampled_from([(), ("first",), ("first", "second")]),
        timeout=st.none() | st.floats(0, allow_nan=False),
        delay=st.none() | DELAYS,
    )
    def submit(
        self,
        max_attempts: int,
        verifiers: tuple[str, ...],
        timeout: float | None,
        delay: int | None,
    ) -> None:
        self.history = History(
            max_attempts=max_attempts,
            verifiers=verifiers,
            execute_timeout_seconds=timeout,
            verify_timeout_seconds=timeout,
            run_at=None if delay is None else START + delay,
        )

    def send(self, kind: type[Any], token: int | None = None, **fields: Any) -> None:
        history, before = self.history, self.history.state
        if issubclass(kind, c.RunCommand):
            held = history.state.token or 0
            fields |= {
                "token": held if token is None else token,
                "run": history.state.runs,
            }
        try:
            history.do(kind(now=history.now, **fields))
        except Refused:
            assert history.state is before
        if history.state.token is not None:
            self.tokens.append(history.state.token)

    @rule(passed=st.integers(0, 3 * SECOND))
    def wait(self, passed: int) -> None:
        self.history.now += passed

    @precondition(is_pending)
    @rule(worker=st.sampled_from("ab"), max_crashes=st.integers(0, 2))
    def start_when_ready(self, worker: str, max_crashes: int) -> None:
        self.history.start(worker, max_crashes)
        self.tokens.append(self.history.state.token or 0)

    @rule(worker=st.sampled_from("ab"), max_crashes=st.integers(0, 2))
    def start(self, worker: str, max_crashes: int) -> None:
        self.send(c.Start, worker=worker, max_crashes=max_crashes)

    @precondition(holding)
    @rule(output=OUTPUTS)
    def record_result(self, output: c.Output) -> None:
        self.send(c.RecordResult, output=output)

    @precondition(holding)
    @rule(verdict=VERDICTS)
    def record_pass(self, verdict: c.Verdict) -> None:
        self.send(c.RecordPass, verdict=verdict)

    def output_if_needed(self, output: c.Output) -> c.Output | None:
        return output if self.history.state.phase is Phase.EXECUTE else None

    @precondition(holding)
    @rule(
        output=OUTPUTS,
        verdict=st.none() | VERDICTS,
        verifiers=st.sampled_from([(), ("first",), ("first", "second")]),
    )
    def complete(
        self,
        output: c.Output,
        verdict: c.Verdict | None,
        verifiers: tuple[str, ...],
    ) -> None:
        given_output = self.output_if_needed(output)
        self.send(c.Complete, output=given_output, verdict=verdict, verifiers=verifiers)

    @precondition(holding)
    @rule(output=OUTPUTS, verdict=VERDICTS, delay=DELAYS)
    def refuse(self, output: c.Output, verdict: c.Verdict, delay: int) -> None:
        retry_at = self.history.now + delay
        given_output = self.output_if_needed(output)
        self.send(c.Refuse, verdict=verdict, retry_at=retry_at, output=given_output)

    @precondition(holding)
    @rule(error_class=st.sampled_from(ErrorClass), final=st.booleans(), delay=DELAYS)
    def fail(self, error_class: ErrorClass, final: bool, delay: int) -> None:
        if error_class is ErrorClass.CRASHED:
            error_class = ErrorClass.EXCEPTION
        self.send(
            c.Fail,
            error_class=error_class,
            error="it broke",
            retry_at=self.history.now + delay,
            final=final,
        )

    @precondition(holding)
    @rule(output=OUTPUTS, limit=st.integers(1, 4), delay=DELAYS)
    def break_verifier(self, output: c.Output, limit: int, delay: int) -> None:
        self.send(
            c.FailVerification,
            verifier="first",
            error="down",
            retry_at=self.history.now + delay,
            max_verify_errors=limit,
            output=self.output_if_needed(output),
        )

    @precondition(holding)
    @rule(reason=st.sampled_from(ReleaseReason), delay=st.none() | DELAYS)
    def release(self, reason: ReleaseReason, delay: int | None) -> None:
        self.send(
            c.Release,
            reason=reason,
            until=None if delay is None else self.history.now + delay,
            max_deferrals=2,
        )

    @precondition(lambda machine: holding(machine) and may_end(machine))
    @rule()
    def confirm_cancel(self) -> None:
        self.send(c.ConfirmCancel)

    @precondition(holding)
    @rule()
    def crash(self) -> None:
        self.history.crash()

    @rule(worker=st.sampled_from("ab"))
    def recover(self, worker: str) -> None:
        self.send(c.Recover, worker=worker)

    @precondition(may_end)
    @rule()
    def cancel(self) -> None:
        self.send(c.Cancel)
        if self.history.state.cancel_requested:
            assert self.history.cancel() == ()

    @rule(verify_only=st.booleans())
    def requeue(self, verify_only: bool) -> None:
        self.send(c.Requeue, verify_only=verify_only)

    @rule()
    def discard(self) -> None:
        self.send(c.Discard)

    @rule(
        kind=st.sampled_from((c.RecordResult, c.RecordPass, c.Complete, c.ConfirmCancel)),
        data=st.data(),
    )
    def report_late(self, kind: type[Any], data: st.DataObject) -> None:
        stale = [t for t in self.tokens if t != self.history.state.token]
        if not stale:
            return
        fields: dict[str, Any] = {}
        if kind is c.RecordResult:
            fields = {"output": c.Output(result="late")}
        elif kind is c.RecordPass:
            fields = {"verdict": c.Verdict(verifier="first")}
        self.send(kind, token=data.draw(st.sampled_from(stale)), **fields)

    @invariant()
    def folds_again(self) -> None:
        if hasattr(self, "history"):
            self.history.refold()


TaskWalk.TestCase.settings = hypothesis.settings(
    max_examples=150, stateful_step_count=40, deadline=None
)
TestTaskWalk = TaskWalk.TestCase


INSTANTS = st.integers(0, 2**62)
COUNTS = st.integers(0, 2**31)
BODIES = TEXTS | st.builds(e.BlobReference, hash=TEXTS, size=COUNTS)
ANY_EVENT = st.one_of(
    st.builds(submitted),
    st.builds(
        e.TaskStarted,
        run=COUNTS,
        attempt=COUNTS,
        phase=TEXTS | st.sampled_from(Phase),
        token=COUNTS,
        worker=TEXTS,
        deadline=st.none() | INSTANTS,
        alone=st.booleans(),
    ),
    st.builds(e.TaskExecuted, run=COUNTS, result=BODIES),
    st.builds(e.TaskVerified, run=COUNTS, passed=st.booleans(), verifier=TEXTS),
    st.builds(e.TaskRetried, run=COUNTS, run_at=INSTANTS, error_class=TEXTS),
    st.builds(e.TaskCompleted, run=COUNTS, token=COUNTS, result=st.none() | BODIES),
    st.builds(e.TaskFailed, run=COUNTS, error_class=TEXTS),
    st.builds(
        e.TaskReleased,
        run=COUNTS,
        reason=TEXTS | st.sampled_from(ReleaseReason),
        until=st.none() | INSTANTS,
        crashed=st.booleans(),
    ),
    st.builds(e.TaskCancelRequested),
    st.builds(e.TaskCancelled),
    st.builds(e.TaskRequeued, round=COUNTS, verify_only=st.booleans()),
    st.builds(e.TaskDiscarded),
    st.builds(e.TaskErased),
    st.builds(e.TaskLateResultRejected, token=COUNTS, run=COUNTS, report=TEXTS),
)


@given(st.lists(ANY_EVENT, max_size=12), INSTANTS)
def test_any_events_in_any_order_fold(events: list[e.TaskEvent], at: int) -> None:
    """A log of a newer release, or one that was meddled with, still has a state."""
    meta = e.EventMeta(schema=e.SCHEMA_VERSION, at=at)
    stream = [
        Stamped("t", version, event, meta)
        for version, event in enumerate([submitted(), *events], start=1)
    ]
    state = None
    for stamped in stream:
        state = evolve(state, stamped)
    assert state == fold(stream)
    assert state is not None
    assert state.version == len(stream)


def test_the_checks_notice_an_illegal_state() -> None:
    history = History()
    history.start()
    stolen = evolve(
        history.state,
        Stamped(
            "t",
            3,
            e.TaskCompleted(run=1, token=2),
            e.EventMeta(schema=e.SCHEMA_VERSION, at=START),
        ),
    )
    assert state_violations(stolen) == [
        "completed with a result",
        "completed past every verifier",
    ]
