"""The verifier that looks for a regular expression in the result."""

from __future__ import annotations

import re

from orchd.config.settings import VerifierSettings, WorkerSettings
from orchd.executors.port import RunContext, Success
from orchd.interfaces import ExecutionResult, Task, VerificationResult
from orchd.system import System
from orchd.verifiers.child import ChildJudge
from orchd.verifiers.port import Passed, Rejected, VerifierAnswer

_REPEATS = re.compile(r"[*+{]")


def is_bounded(pattern: str) -> bool:
    """Tell whether a search takes time in proportion to the text, whatever the text.

    Decided on the safe side: a pattern without any repeat does.
    """
    return _REPEATS.search(pattern) is None


class RegexVerifier:
    """Passes a result in which the pattern is found (`re.search`).

    Python's matching cannot be interrupted and may take for ever, so a pattern with
    repeats is searched in a child process. One without is searched here and now.
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
        self._child = ChildJudge(
            settings.name,
            "orchd.verifiers.regex:PatternSearch",
            {"pattern": pattern},
            "the pattern",
            worker=worker,
            system=system,
            mark=mark,
        )

    async def verify(self, result: Success, context: RunContext) -> VerifierAnswer:
        """Search the result."""
        if self.inline:
            return self._search.verdict(result.output)
        return await self._child.verify(result, context)

    async def close(self) -> None:
        """Stop the warm children."""
        await self._child.close()


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
