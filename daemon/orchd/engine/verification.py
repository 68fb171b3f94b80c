"""Judges a result by the task's verifiers: cheap ones first, stop at the first refusal."""

from __future__ import annotations

from typing import Any

from orchd.engine import endings
from orchd.engine.run import Run, Stop, Stopped
from orchd.executors.port import Success
from orchd.tasks import commands as c
from orchd.tasks.state import Phase
from orchd.verifiers.port import (
    INLINE_CHARACTERS_MAX,
    Broken,
    Passed,
    Rejected,
    VerifierAnswer,
)


class Verification:
    """The verification of one run's result.

    Verifiers that cost nothing judge before the result is recorded, so that a task with
    none but them needs one commit. Before any other verifier is asked the result is on
    disk: a crash from there on never executes the task again.
    """

    def __init__(self, runner: Any, run: Run, success: Success) -> None:
        self._runner = runner
        self._run = run
        self._success = success
        shop = runner.workshop
        if run.state.phase is Phase.EXECUTE:
            bytes_max = shop.settings.worker.max_output_bytes
            run.output = endings.output_of(success, bytes_max)
        self._inline: list[str] = []
        self._costly: list[str] = []
        for name in run.state.verifiers:
            if name not in run.state.passed_verifiers:
                inline = _is_inline(shop.verifier(name), success)
                (self._inline if inline else self._costly).append(name)

    async def judge(self) -> None:
        """Bring the run to its end, whatever the verdict."""
        if not (self._inline or self._costly):
            self._complete(None)
            return
        try:
            if await self._judge_inline():
                await self._judge_costly()
        except Stopped:
            await self._keep_result()
            raise

    async def _keep_result(self) -> None:
        # A stop must not lose a result that was paid for; a cancellation may.
        if self._run.output is not None and self._run.stop_reason is not Stop.CANCEL:
            await self._record_result()

    async def _judge_inline(self) -> bool:
        for name in self._inline:
            answer = await self._ask(name)
            if not isinstance(answer, Passed):
                await self._end_without_pass(name, answer)
                return False
        return True

    async def _judge_costly(self) -> None:
        if not self._costly:
            self._complete(None)
            return
        if self._run.output is not None and not await self._record_result():
            return
        for name in self._costly:
            answer = await self._ask(name)
            if not isinstance(answer, Passed):
                await self._end_without_pass(name, answer)
                return
            verdict = endings.verdict_of(name, answer)
            if name == self._costly[-1]:
                self._complete(verdict)
            elif not await self._record_pass(verdict):
                return

    async def _ask(self, name: str) -> VerifierAnswer | None:
        verifier = self._runner.workshop.verifier(name)
        if verifier is None:
            return None
        self._run.verifier = name
        answer = await self._runner.guarded(
            self._run,
            lambda: verifier.verify(self._success, self._run.context),
            timeout_seconds=self._timeout_seconds(name),
            phase="verify",
            verifier=name,
            on_error=endings.broken_by,
        )
        if isinstance(answer, Passed | Rejected | Broken):
            return answer
        return Broken(error=f"verifier {name} answered {type(answer).__name__}")

    def _timeout_seconds(self, name: str) -> float | None:
        limits = [self._run.state.verify_timeout_seconds]
        configured = self._runner.workshop.settings.verifiers.get(name)
        if configured is not None:
            limits.append(configured.timeout_seconds)
        return min((limit for limit in limits if limit is not None), default=None)

    async def _end_without_pass(self, name: str, answer: VerifierAnswer | None) -> None:
        run, now = self._run, self._runner.workshop.clock.now()
        retry = self._runner.retry_settings(run)
        if answer is None:
            await self._end_missing(name)
        elif isinstance(answer, Rejected):
            verdict = endings.verdict_of(name, answer)
            wait = self._runner.backoff_seconds(retry, run.state.attempts)
            command = endings.refused(run, now, verdict, wait, run.output)
            self._runner.end(run, command)
        elif isinstance(answer, Broken):
            wait = self._runner.backoff_seconds(retry, run.state.verify_errors + 1)
            limit = retry.max_verify_errors
            unverified = endings.unverified(run, now, answer, wait, limit, run.output)
            self._runner.end(run, unverified)

    async def _end_missing(self, name: str) -> None:
        if self._run.output is not None and not await self._record_result():
            return
        self._runner.end_missing(self._run, name)

    async def _record_result(self) -> bool:
        now = self._runner.workshop.clock.now()
        command = endings.recorded(self._run, now)
        return bool(await self._runner.record(self._run, command))

    async def _record_pass(self, verdict: c.Verdict) -> bool:
        run, now = self._run, self._runner.workshop.clock.now()
        command = c.RecordPass(
            now=now, token=run.token, run=run.context.run, verdict=verdict
        )
        return bool(await self._runner.record(run, command))

    def _complete(self, verdict: c.Verdict | None) -> None:
        run, now = self._run, self._runner.workshop.clock.now()
        command = c.Complete(
            now=now,
            token=run.token,
            run=run.context.run,
            output=run.output,
            verdict=verdict,
            verifiers=tuple(self._inline),
        )
        self._runner.end(run, command)


def _is_inline(verifier: Any, success: Success) -> bool:
    if verifier is None or len(success.output) > INLINE_CHARACTERS_MAX:
        return False
    return bool(verifier.inline)
