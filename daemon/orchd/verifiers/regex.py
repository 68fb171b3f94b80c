"""The verifier that looks for a regular expression in the result."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from orchd.config.settings import VerifierSettings, WorkerSettings
from orchd.executors.pool import CannotLoadTarget, ChildDied, ChildPool, ChildSettings
from orchd.executors.port import RunContext, Success
from orchd.executors.wire import context_message
from orchd.interfaces import ExecutionResult, Task, VerificationResult
from orchd.system import System
from orchd.verifiers.port import Broken, Passed, Rejected, VerifierAnswer

SEARCH_SECONDS_MAX = 5.0
_REPEATS = re.compile(r"[*+{]")


def is_bounded(pattern: str) -> bool:
    """Tell whether a search takes time in proportion to the text, whatever the text.

    Decided on the safe side: a pattern without any repeat does.
    """
    return _REPEATS.search(pattern) is None


class RegexVerifier:
    """Passes a result in which the pattern is found (`re.search`).

    Python's matching cannot be interrupted and may take for ever, so a pattern with
    repeats is searched in a child process that is killed after five seconds, which is no
    verdict. A pattern without repeats is searched here and now.
    """

    kind = "regex"

    def __init__(
        self,
        settings: VerifierSettings,
        worker: WorkerSettings,
        system: System,
        mark: str,
    ) -> None:
        self.name = settings.name
        pattern = settings.pattern or ""
        self.inline = is_bounded(pattern)
        self._search = PatternSearch(pattern)
        child = ChildSettings(
            name=settings.name,
            target="orchd.verifiers.regex:PatternSearch",
            method="verify",
            arguments={"pattern": pattern},
            env={},
            worker=worker,
            mark=mark,
        )
        self._pool = ChildPool(child, system)

    async def verify(self, result: Success, context: RunContext) -> VerifierAnswer:
        """Search the result."""
        if self.inline:
            return self._search.verdict(result.output)
        try:
            async with asyncio.timeout(SEARCH_SECONDS_MAX):
                return await self._searched(result, context)
        except TimeoutError:
            limit = f"{SEARCH_SECONDS_MAX:g} s"
            return Broken(error=f"the pattern of {self.name} took longer than {limit}")
        except (CannotLoadTarget, ChildDied, OSError) as error:
            return Broken(error=f"verifier {self.name}: {error}")

    async def _searched(self, result: Success, context: RunContext) -> VerifierAnswer:
        request = {"context": context_message(context), "result": result}
        heartbeat: Callable[[], None] = context.heartbeat
        answer = await self._pool.call(request, heartbeat)
        return answer  # type: ignore[return-value]  # PatternSearch is a verifier

    async def close(self) -> None:
        """Stop the warm children."""
        await self._pool.close()


class PatternSearch:
    """The search itself, as a verifier that a child can run."""

    def __init__(self, pattern: str) -> None:
        self._pattern = re.compile(pattern)

    def verdict(self, output: str) -> Passed | Rejected:
        """Judge a text."""
        if self._pattern.search(output):
            return Passed()
        wanted = self._pattern.pattern
        return Rejected(feedback=f"the result does not match the pattern {wanted}")

    def verify(self, task: Task, result: ExecutionResult) -> VerificationResult:
        """Judge a result, in a child."""
        verdict = self.verdict(result.output)
        passed = isinstance(verdict, Passed)
        return VerificationResult(passed=passed, confidence=1.0, feedback=verdict.feedback)
