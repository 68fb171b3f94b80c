"""The rules of a task's life, one by one."""

import math

import pytest

from orchd.interfaces import TaskStatus
from orchd.tasks import commands as c
from orchd.tasks import events as e
from orchd.tasks.failures import ErrorClass, fingerprint
from orchd.tasks.machine import BrokenStream, Stamped, evolve, fold, is_ready
from orchd.tasks.state import Phase, WaitingReason
from support.task_histories import SECOND, START, History, submitted

PASSES = ("first", "second")
OUTPUT = c.Output(result="42")


def executing(**changes: object) -> History:
    history = History(**changes)
    history.start()
    return history


def verifying(**changes: object) -> History:
    history = executing(**changes)
    history.record()
    return history


def dead(**changes: object) -> History:
    history = executing(**changes)
    history.fail(final=True)
    return history


# --- counts ---------------------------------------------------------------------------


def test_a_released_execution_charges_no_attempt_and_the_run_is_counted() -> None:
    history = executing()
    history.release()
    assert (history.state.runs, history.state.attempts) == (1, 0)


def test_a_release_after_the_result_was_recorded_keeps_the_attempt() -> None:
    history = verifying()
    history.release()
    assert (history.state.runs, history.state.attempts) == (1, 1)
    assert history.state.phase is Phase.VERIFY


def test_a_run_that_only_verifies_costs_no_attempt() -> None:
    history = verifying()
    history.release()
    history.start()
    assert (history.state.runs, history.state.attempts) == (2, 1)
    assert history.state.phase is Phase.VERIFY


def test_the_last_attempt_that_fails_makes_a_dead_letter() -> None:
    history = History(max_attempts=2)
    history.start()
    assert isinstance(history.fail()[-1], e.TaskRetried)
    history.start()
    assert isinstance(history.fail()[-1], e.TaskFailed)
    assert history.state.attempts == 2


def test_released_runs_never_use_up_the_attempts() -> None:
    history = History(max_attempts=1)
    for _ in range(50):
        history.start()
        history.release()
    history.start()
    assert (history.state.runs, history.state.attempts) == (51, 1)


# --- results --------------------------------------------------------------------------


def test_a_second_result_is_refused_while_one_waits_for_its_verdict() -> None:
    history = verifying()
    again = history.command(c.RecordResult, output=OUTPUT)
    assert history.refuses(again) == "conflict"
    verdict = c.Verdict(verifier="first")
    refusal = history.command(c.Refuse, verdict=verdict, retry_at=0, output=OUTPUT)
    assert history.refuses(refusal) == "conflict"


def test_an_execution_that_succeeded_can_no_longer_fail() -> None:
    history = verifying()
    failure = history.command(
        c.Fail, error_class=ErrorClass.EXCEPTION, error="x", retry_at=0
    )
    assert history.refuses(failure) == "conflict"


def test_nothing_completes_without_a_result() -> None:
    history = executing()
    assert history.refuses(history.command(c.Complete, verifiers=PASSES)) == "conflict"


def test_nothing_completes_with_two_results() -> None:
    history = verifying()
    twice = history.command(c.Complete, output=OUTPUT, verifiers=PASSES)
    assert history.refuses(twice) == "conflict"


@pytest.mark.parametrize("passed", [(), ("first",), ("second",), ("third",)])
def test_nothing_completes_until_every_verifier_has_passed(passed: tuple[str, ...]) -> None:
    history = verifying()
    assert history.refuses(history.command(c.Complete, verifiers=passed)) == "conflict"
    assert history.state.status is TaskStatus.IN_PROGRESS


def test_passes_of_earlier_runs_count() -> None:
    history = verifying()
    history.report(c.RecordPass, verdict=c.Verdict(verifier="first"))
    history.crash()
    history.start()
    history.report(c.Complete, verdict=c.Verdict(verifier="second"))
    assert history.state.status is TaskStatus.COMPLETED
    assert history.state.passed_verifiers == PASSES


def test_passes_do_not_outlive_the_result_they_judged() -> None:
    history = verifying()
    history.report(c.RecordPass, verdict=c.Verdict(verifier="first"))
    history.refuse()
    history.start()
    history.record("43")
    late = c.Verdict(verifier="second")
    assert history.refuses(history.command(c.Complete, verdict=late)) == "conflict"


def test_one_event_completes_when_nothing_has_to_be_kept_before() -> None:
    history = executing()
    history.report(c.Complete, output=OUTPUT, verifiers=PASSES)
    assert history.names == ["submitted", "started", "completed"]
    assert history.state.result == "42"


def test_the_token_of_a_completion_is_that_of_its_run() -> None:
    history = executing()
    token = history.state.token
    (completed,) = history.report(c.Complete, output=OUTPUT, verifiers=PASSES)
    assert isinstance(completed, e.TaskCompleted)
    assert completed.token == token


@pytest.mark.parametrize("confidence", [math.nan, math.inf, -math.inf])
def test_a_confidence_that_json_cannot_say_is_none(confidence: float) -> None:
    output = c.Output(result="42", confidence=confidence)
    recorded = executing()
    recorded.report(c.RecordResult, output=output)
    verdict = c.Verdict(verifier="first", confidence=confidence)
    recorded.report(c.RecordPass, verdict=verdict)
    assert recorded.state.confidence is None
    at_once = executing()
    at_once.report(c.Complete, output=output, verifiers=PASSES)
    assert at_once.state.confidence is None


# --- verdicts -------------------------------------------------------------------------


def test_the_feedback_of_a_refusal_is_in_the_state_at_the_next_start() -> None:
    history = verifying()
    history.refuse("too short")
    history.start()
    assert history.state.feedback == "too short"


def test_feedback_survives_a_failed_execution_a_release_and_a_requeue() -> None:
    history = History(max_attempts=2)
    history.start()
    history.refuse("too short", output=OUTPUT)
    history.start()
    history.release()
    history.start()
    history.fail()
    history.requeue()
    history.start()
    assert history.state.feedback == "too short"


def test_a_refused_result_is_executed_again_and_gone_from_the_state() -> None:
    history = verifying()
    history.refuse()
    assert (history.state.phase, history.state.has_result) == (Phase.EXECUTE, False)


def test_a_broken_verifier_is_asked_again_about_the_same_result() -> None:
    history = verifying()
    for error in range(1, 10):
        history.break_verifier()
        assert history.state.verify_errors == error
        assert history.state.waiting_reason == WaitingReason.BACKOFF
        history.start()
    assert (history.state.result, history.state.attempts) == ("42", 1)
    history.break_verifier()
    assert history.state.status is TaskStatus.FAILED
    assert history.state.error_class == ErrorClass.VERIFIER_ERROR
    assert history.state.result == "42"


def test_a_result_that_meets_a_broken_verifier_at_once_is_kept_too() -> None:
    history = executing()
    history.break_verifier(output=OUTPUT)
    assert history.names[-2:] == ["executed", "released"]
    assert (history.state.verify_errors, history.state.attempts) == (1, 1)


def test_verifier_errors_count_in_a_row() -> None:
    history = verifying()
    history.break_verifier()
    history.start()
    history.report(c.RecordPass, verdict=c.Verdict(verifier="first"))
    assert history.state.verify_errors == 0


def test_a_new_attempt_starts_with_no_verifier_errors() -> None:
    history = verifying()
    history.break_verifier()
    history.start()
    history.refuse()
    assert history.state.verify_errors == 0


# --- crashes --------------------------------------------------------------------------


def test_a_crash_dead_letters_only_a_task_that_ran_alone() -> None:
    history = History()
    for crashes in range(1, 4):
        history.start()
        assert not history.state.alone
        history.crash()
        assert history.state.crashes == crashes
    history.start()
    assert history.state.alone
    history.crash()
    assert history.state.error_class == ErrorClass.CRASHED
    assert (history.state.crashes, history.state.attempts) == (4, 1)


def test_a_crash_charges_no_attempt() -> None:
    history = executing()
    history.crash()
    assert (history.state.attempts, history.state.crashes) == (0, 1)


def test_a_task_that_ran_alone_may_still_be_released() -> None:
    history = History()
    history.start(max_crashes=0)
    history.release()
    assert (history.state.status, history.state.crashes) == (TaskStatus.PENDING, 0)


def test_recovery_leaves_a_task_alone_that_another_worker_holds() -> None:
    history = executing()
    assert history.do(c.Recover(now=START, worker="another")) == ()
    history.release()
    assert history.do(c.Recover(now=START, worker="w")) == ()


# --- late results ---------------------------------------------------------------------


@pytest.mark.parametrize("held_again", [False, True])
def test_a_late_result_changes_nothing_but_the_version(held_again: bool) -> None:
    history = executing()
    late = history.command(c.Complete, output=OUTPUT, verifiers=PASSES)
    history.crash()
    if held_again:
        history.start()
    history.now += SECOND
    before = history.state
    (rejected,) = history.do(late)
    assert isinstance(rejected, e.TaskLateResultRejected)
    assert rejected.report == "Complete"
    assert history.state.updated_at == before.updated_at
    assert (history.state.token, history.state.status) == (before.token, before.status)


def test_a_run_that_lost_its_task_cannot_release_or_cancel_it() -> None:
    history = executing()
    release = history.command(c.Release, reason="drain")
    confirmation = history.command(c.ConfirmCancel)
    history.crash()
    history.start()
    assert history.refuses(release) == "stale"
    assert history.refuses(confirmation) == "stale"


# --- cancelling -----------------------------------------------------------------------


def test_a_pending_task_is_cancelled_at_once_and_no_run_ends() -> None:
    history = History(run_at=START + SECOND)
    assert history.cancel() == (e.TaskCancelled(run=None),)
    assert history.state.waiting_reason is None


def test_cancelling_twice_is_cancelling_once() -> None:
    history = executing()
    assert len(history.cancel()) == 1
    assert history.cancel() == ()
    history.report(c.ConfirmCancel)
    assert history.cancel() == ()


def test_a_cancellation_that_comes_too_late_is_refused() -> None:
    history = dead()
    assert history.refuses(c.Cancel(now=START)) == "conflict"


def test_a_result_that_passed_wins_over_a_cancellation() -> None:
    history = verifying()
    history.cancel()
    history.report(c.Complete, verifiers=PASSES)
    assert history.state.status is TaskStatus.COMPLETED


@pytest.mark.parametrize(
    "end",
    [
        lambda history: history.crash(),
        lambda history: history.release(),
        lambda history: history.release("later", max_deferrals=0),
        lambda history: history.fail(),
        lambda history: history.fail(final=True),
        lambda history: history.refuse(output=OUTPUT),
        lambda history: history.break_verifier(limit=1, output=OUTPUT),
    ],
    ids=["crash", "release", "deferral", "failure", "final", "refusal", "verifier error"],
)
@pytest.mark.parametrize("max_attempts", [1, 2])
def test_a_run_to_be_cancelled_never_ends_in_a_dead_letter(
    end: object, max_attempts: int
) -> None:
    history = History(max_attempts=max_attempts)
    history.start(max_crashes=0)
    history.cancel()
    assert callable(end)
    end(history)
    assert history.state.status is TaskStatus.CANCELLED
    assert history.names[-1] == "cancelled"


def test_a_task_that_was_to_be_cancelled_while_it_was_verified_keeps_its_result() -> None:
    history = verifying()
    history.cancel()
    history.break_verifier(limit=1)
    assert history.state.status is TaskStatus.CANCELLED
    assert history.state.result == "42"


# --- waiting --------------------------------------------------------------------------


def test_a_submission_for_later_waits_for_its_time_and_no_longer() -> None:
    history = History(run_at=START + SECOND)
    assert history.state.waiting_reason == WaitingReason.TIME
    early = c.Start(now=START + SECOND - 1, worker="w", max_crashes=3)
    assert history.refuses(early) == "conflict"
    assert is_ready(history.state, START + SECOND)
    history.start()


def test_a_submission_for_a_time_gone_by_waits_for_nothing() -> None:
    history = History(run_at=START)
    assert history.state.waiting_reason is None


@pytest.mark.parametrize(
    ("reason", "waiting"),
    [
        ("later", WaitingReason.TIME),
        ("breaker", WaitingReason.BREAKER),
        ("budget", WaitingReason.BUDGET),
        ("executor_missing", WaitingReason.EXECUTOR_MISSING),
        ("drain", WaitingReason.TIME),
    ],
)
def test_a_released_task_says_what_it_waits_for(reason: str, waiting: str) -> None:
    history = executing()
    history.release(reason, until=START + SECOND, ref="what")
    state = history.state
    assert (state.waiting_reason, state.waiting_until, state.waiting_ref) == (
        waiting,
        START + SECOND,
        "what",
    )


def test_deferrals_are_counted_and_one_too_many_is_a_failure() -> None:
    history = History()
    for deferrals in range(1, 4):
        history.start()
        history.release("later", max_deferrals=3)
        assert history.state.deferrals == deferrals
    history.start()
    history.release("later", max_deferrals=3)
    assert history.state.error_class == ErrorClass.DEFERRED_TOO_OFTEN


def test_an_error_of_a_release_does_not_keep_the_fingerprint_of_another() -> None:
    history = executing()
    history.fail()
    assert history.state.fingerprint == fingerprint(ErrorClass.EXECUTION_FAILED, "it broke")
    history.start()
    history.release("breaker", error_class=ErrorClass.DEPENDENCY, error="503")
    assert history.state.error == "503"
    assert history.state.fingerprint is None


@pytest.mark.parametrize("seconds", [1e300, math.inf, math.nan])
def test_no_time_limit_is_too_large_to_be_counted(seconds: float) -> None:
    history = executing(execute_timeout_seconds=seconds, verify_timeout_seconds=seconds)
    history.record()
    assert history.state.deadline is None or history.state.deadline < 2**63
    history.refold()


# --- dead letters ---------------------------------------------------------------------


def test_a_requeue_starts_a_new_round_and_pressed_twice_only_one() -> None:
    history = dead()
    history.requeue()
    assert history.refuses(c.Requeue(now=START)) == "conflict"
    state = history.state
    assert (state.round, state.runs, state.attempts) == (2, 1, 0)
    assert (state.error, state.error_class, state.fingerprint) == (None, None, None)


def test_only_dead_letters_are_requeued_and_only_undiscarded_ones_discarded() -> None:
    history = dead()
    history.do(c.Discard(now=START))
    assert history.refuses(c.Discard(now=START)) == "conflict"
    history.requeue()
    assert history.state.status is TaskStatus.PENDING
    history.cancel()
    assert history.refuses(c.Requeue(now=START)) == "conflict"
    assert history.refuses(c.Discard(now=START)) == "conflict"


def test_a_requeue_to_verify_needs_a_result() -> None:
    history = dead()
    assert history.refuses(c.Requeue(now=START, verify_only=True)) == "conflict"


def test_a_requeue_to_verify_judges_the_stored_result_from_the_first_verifier_on() -> None:
    history = verifying(max_attempts=1)
    history.report(c.RecordPass, verdict=c.Verdict(verifier="first"))
    history.break_verifier(limit=1)
    history.requeue(verify_only=True)
    assert (history.state.result, history.state.passed_verifiers) == ("42", ())
    history.start()
    assert (history.state.phase, history.state.attempts) == (Phase.VERIFY, 0)
    history.refuse("still wrong")
    assert (history.state.phase, history.state.attempts) == (Phase.EXECUTE, 0)
    history.start()
    assert history.state.attempts == 1
    assert history.state.feedback == "still wrong"


# --- streams --------------------------------------------------------------------------


def test_a_task_is_submitted_once_and_nothing_happens_to_one_that_does_not_exist() -> None:
    history = History()
    again = c.Submit(now=START, submitted=submitted())
    assert history.refuses(again) == "conflict"


def test_a_stream_without_a_submission_has_no_state() -> None:
    meta = e.EventMeta(schema=1, at=START)
    with pytest.raises(BrokenStream):
        evolve(None, Stamped("t", 1, e.TaskDiscarded(), meta))
    assert fold([]) is None


def test_failures_of_one_cause_have_one_fingerprint() -> None:
    texts = (
        "request 123e4567-e89b-12d3-a456-426614174000 failed at 0xDEAD after 12 s",
        "request 9B2DEF01-ABCD-4EEF-8888-0123456789AB failed at 0x1f after 7 s",
    )
    assert len({fingerprint(ErrorClass.EXCEPTION, text) for text in texts}) == 1
    assert fingerprint(ErrorClass.EXCEPTION, "a") != fingerprint(ErrorClass.TIMEOUT, "a")
    assert fingerprint(ErrorClass.EXCEPTION, "a") != fingerprint(ErrorClass.EXCEPTION, "b")
