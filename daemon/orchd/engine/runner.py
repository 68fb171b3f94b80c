"""Carries a claimed task through execution and verification to its recorded end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

from orchd.config.settings import RetrySettings, Settings
from orchd.engine import endings
from orchd.engine.breakers import BreakerWatch
from orchd.engine.clock import LedgerClock
from orchd.engine.committer import Reply
from orchd.engine.deadlines import Deadline, Deadlines
from orchd.engine.news import Newsroom
from orchd.engine.observer import PhaseTiming
from orchd.engine.report import Answer, EndReport, ProgressReport
from orchd.engine.run import RanOutOfTime, Run, Stop, Stopped, is_verification
from orchd.engine.verification import Verification
from orchd.executors.port import (
    Deferred,
    ExecutorAnswer,
    ExecutorPort,
    Failure,
    Final,
    Success,
)
from orchd.ledger.port import Acted, ActOnTask, Origin, Outcome, Refusal
from orchd.system import System
from orchd.tasks.backoff import delay_seconds
from orchd.tasks.commands import Release, TaskCommand
from orchd.tasks.failures import ErrorClass
from orchd.verifiers.port import VerifierPort

logger = logging.getLogger(__name__)

_ANSWERS = (Success, Failure, Final, Deferred)
MISSING_SECONDS = 30.0
"""How long a task rests that was claimed for an executor or verifier not found here."""


class Workshop(Protocol):
    """What a runner needs of the engine around it."""

    settings: Settings
    system: System
    clock: LedgerClock
    newsroom: Newsroom
    breakers: BreakerWatch
    deadlines: Deadlines

    @property
    def worker_id(self) -> str: ...

    def verifier(self, name: str) -> VerifierPort | None: ...

    def report(self, request: ActOnTask, reply: Reply, *, ends_run: bool) -> None: ...

    def stop_run(self, run: Run, reason: Stop) -> None: ...

    def release(self, run: Run) -> None: ...


class Runner:
    """Works on claimed tasks; the engine starts one coroutine of `run` per claim."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop

    async def run(self, run: Run) -> None:
        """Work on a claimed task until its run has ended on disk."""
        try:
            if is_verification(run):
                success = endings.recorded_success(run.claimed)
                await Verification(self, run, success).judge()
            else:
                await self._execute(run)
        except Stopped:
            self.end(run, endings.stopped(run, self.workshop.clock.now()))

    async def _execute(self, run: Run) -> None:
        executor = run.executor
        if executor is None:
            self.end_missing(run, run.state.executor)
            return
        answer = await self._answer(run, executor)
        self.workshop.breakers.heard(run.state.executor, answer)
        if isinstance(answer, Success):
            await Verification(self, run, answer).judge()
        else:
            self.end(run, self._command_of(run, answer))

    async def _answer(self, run: Run, executor: ExecutorPort) -> ExecutorAnswer:
        answer = await self.guarded(
            run,
            lambda: executor.execute(run.context),
            timeout_seconds=run.state.execute_timeout_seconds,
            phase="execute",
            verifier=None,
            on_error=endings.failure_of,
        )
        if isinstance(answer, _ANSWERS):
            return answer
        return Failure(
            error=f"executor {executor.name} answered {type(answer).__name__}",
            error_class=ErrorClass.INVALID_RESULT,
        )

    def _command_of(self, run: Run, answer: Failure | Final | Deferred) -> TaskCommand:
        now = self.workshop.clock.now()
        retry = self.retry_settings(run)
        if isinstance(answer, Final):
            return endings.final(run, now, answer)
        if isinstance(answer, Deferred):
            wait = self.backoff_seconds(retry, run.state.deferrals + 1)
            return endings.deferred(run, now, answer, wait, retry.max_deferrals)
        until = self.workshop.breakers.open_until(run.state.executor, answer)
        if until is not None:
            return endings.released_by_breaker(run, now, answer, until)
        wait = self.backoff_seconds(retry, run.state.attempts)
        wait = max(wait, answer.retry_after_seconds or 0.0)
        return endings.failed(run, now, answer, wait)

    # --- user code --------------------------------------------------------------------

    async def guarded(
        self,
        run: Run,
        call: Callable[[], Awaitable[Any]],
        *,
        timeout_seconds: float | None,
        phase: str,
        verifier: str | None,
        on_error: Callable[[BaseException], Any],
    ) -> Any:
        """Await user code; return its answer, or what `on_error` makes of its error.

        Raises:
            Stopped: the run was told to stop meanwhile, not by its time limit.
        """
        started, started_at = self.workshop.system.monotonic(), self.workshop.clock.now()
        outcome = "stopped"
        try:
            answer = await self._timed(run, call, timeout_seconds, on_error)
            outcome = type(answer).__name__.lower()
            return answer
        finally:
            self.workshop.newsroom.phase_ended(
                PhaseTiming(
                    context=run.context,
                    phase=phase,
                    executor=run.state.executor,
                    verifier=verifier,
                    seconds=self.workshop.system.monotonic() - started,
                    started_at=started_at,
                    outcome=outcome,
                )
            )

    async def _timed(
        self,
        run: Run,
        call: Callable[[], Awaitable[Any]],
        timeout_seconds: float | None,
        on_error: Callable[[BaseException], Any],
    ) -> Any:
        if run.stop_reason is not None:
            raise Stopped
        limit = self._set_limit(run, timeout_seconds)
        run.in_body = True
        try:
            answer = await call()
            _forget_timeout(run)
            return answer
        except asyncio.CancelledError as cancelled:
            return self._on_cancelled(run, cancelled, timeout_seconds, on_error)
        except GeneratorExit:
            raise
        except BaseException as error:
            # User code may raise anything at all, SystemExit and KeyboardInterrupt
            # included; none of it may end more than this run.
            _forget_timeout(run)
            return on_error(error)
        finally:
            run.in_body = False
            if limit is not None:
                limit.cancel()

    def _set_limit(self, run: Run, timeout_seconds: float | None) -> Deadline | None:
        if timeout_seconds is None:
            return None
        stop = self.workshop.stop_run
        return self.workshop.deadlines.after(
            timeout_seconds, lambda: stop(run, Stop.TIMEOUT)
        )

    def _on_cancelled(
        self,
        run: Run,
        cancelled: asyncio.CancelledError,
        timeout_seconds: float | None,
        on_error: Callable[[BaseException], Any],
    ) -> Any:
        task = asyncio.current_task()
        if run.stop_reason is not None and task is not None:
            task.uncancel()
            if run.take_timeout():
                return on_error(RanOutOfTime(f"ran out of time after {timeout_seconds} s"))
            raise Stopped from cancelled
        if task is not None and task.cancelling():
            raise cancelled
        # The user's code raised the cancellation itself: an error like any other.
        return on_error(cancelled)

    # --- what is recorded -------------------------------------------------------------

    def retry_settings(self, run: Run) -> RetrySettings:
        """Return the retry settings that hold for the task's executor."""
        return endings.retry_settings(self.workshop.settings, run.state.executor)

    def backoff_seconds(self, retry: RetrySettings, attempt: int) -> float:
        """Return how long to wait after this many attempts."""
        return delay_seconds(retry.backoff, attempt, self.workshop.system.random())

    async def record(self, run: Run, command: TaskCommand) -> bool:
        """Record progress of the run; False when the run has lost its task.

        Raises:
            Stopped: the run was told to stop while the commit was on its way.
        """
        if run.ended:
            return False
        outcome = await self._recorded(run, command)
        if not _still_holds(run, outcome):
            return False
        if run.stop_reason is not None:
            raise Stopped
        return True

    async def _recorded(self, run: Run, command: TaskCommand) -> Outcome:
        report = ProgressReport(run, self._heard_progress)
        self.workshop.report(self._request(run, command), report, ends_run=False)
        # A stop that arrives now waits for the commit: what has happened must reach the
        # disk. Only the end of the whole process breaks this off.
        run.committing += 1
        try:
            return await report.answered
        finally:
            run.committing -= 1
            if not run.committing:
                _send_held(run)

    def _heard_progress(self, run: Run, outcome: Outcome) -> None:
        if isinstance(outcome, Refusal) and outcome.code == "rejected":
            run.unstorable = outcome.detail
            # An end that is on its way may rest on what was rejected, or stand without it.
            if not run.pending_reports:
                run.ended = True
                self._end_unstorable(run, outcome.detail)
        elif _still_holds(run, outcome):
            assert isinstance(outcome, Acted)
            run.state = outcome.state
        else:
            run.ended = True

    def end(self, run: Run, command: TaskCommand) -> None:
        """Report the end of the run, once. Nothing has to wait until it is on disk."""
        if not run.ended:
            run.ended = True
            self._report(run, command)

    def _report(self, run: Run, command: TaskCommand, *, is_last: bool = False) -> None:
        # A second report frees no second slot.
        ends_run = run.pending_reports == 0
        run.pending_reports += 1

        def send() -> None:
            report = EndReport(run, is_last=is_last, heard=self._heard_end)
            request = self._request(run, command)
            self.workshop.report(request, report, ends_run=ends_run)

        if run.committing:
            # In a commit of its own it might overtake the progress that is on its way, and
            # the task would be another's before its result is recorded.
            run.held = (*run.held, send)
        else:
            send()

    def _heard_end(self, run: Run, answer: Answer, is_last: bool) -> None:
        run.pending_reports -= 1
        if isinstance(answer, Refusal) and not is_last:
            rejected = answer.detail if answer.code == "rejected" else run.unstorable
            if rejected is not None:
                self._end_unstorable(run, rejected)
                return
        if isinstance(answer, BaseException):
            logger.error(
                "the end of run %d of task %s could not be recorded",
                run.context.run,
                run.state.id,
                exc_info=answer,
            )
        if isinstance(answer, Acted) or not run.pending_reports:
            self.workshop.release(run)

    def _end_unstorable(self, run: Run, reason: str) -> None:
        # What the run had to say cannot be stored, so that is what is recorded instead.
        logger.error("the report of task %s was rejected: %s", run.state.id, reason)
        wait = self.backoff_seconds(self.retry_settings(run), run.state.attempts)
        now = self.workshop.clock.now()
        command = endings.unstorable(run, now, endings.error_text(reason), wait)
        self._report(run, command, is_last=True)

    def end_missing(self, run: Run, name: str) -> None:
        """Give the task back because this worker lacks the executor or verifier `name`."""
        now = self.workshop.clock.now()
        until = now + endings.microseconds(MISSING_SECONDS)
        self.end(run, endings.missing(run, now, name, until))

    async def leave_behind(self, run: Run) -> None:
        """End a run on behalf of a body that does not react to its cancellation."""
        retry = self.retry_settings(run)
        wait = self.backoff_seconds(retry, run.state.attempts)
        now = self.workshop.clock.now()
        limit = retry.max_verify_errors
        ending = endings.left_behind(run, now, wait, limit)
        if isinstance(ending, Release) and run.output is not None:
            # The next run has only to verify it.
            with suppress(Stopped):
                await self.record(run, endings.recorded(run, now))
        self.end(run, ending)

    def _request(self, run: Run, command: TaskCommand) -> ActOnTask:
        origin = Origin(
            actor="worker",
            worker=self.workshop.worker_id,
            traceparent=run.context.traceparent,
        )
        return ActOnTask(
            task_id=run.state.id, command=command, origin=origin, known=run.state
        )


def _send_held(run: Run) -> None:
    held, run.held = run.held, ()
    for send in held:
        send()


def _still_holds(run: Run, outcome: Outcome) -> bool:
    return isinstance(outcome, Acted) and outcome.state.token == run.token


def _forget_timeout(run: Run) -> None:
    # The body answered in spite of its time limit, and its answer counts. What comes after
    # it must not be taken for stopped.
    if run.take_timeout() and (task := asyncio.current_task()) is not None:
        task.uncancel()
