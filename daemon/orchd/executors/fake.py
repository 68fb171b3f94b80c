"""The executor that only pretends, for trying things out without any key."""

from __future__ import annotations

from collections.abc import Mapping

from orchd.config.settings import ExecutorSettings
from orchd.executors.port import ExecutorAnswer, Failure, RunContext, Success
from orchd.system import System

CONFIDENCE = 0.9


class FakeExecutor:
    """Answers `Fake result for: <description>` with a confidence of 0.9.

    A payload object steers it: `{"success": false}` makes it fail, `{"fail_times": n}`
    makes the first n attempts fail, `{"seconds": s}` makes it take that long.
    """

    kind = "fake"

    def __init__(self, settings: ExecutorSettings, system: System) -> None:
        self.name = settings.name
        self.exclusive = settings.exclusive
        self._system = system

    async def execute(self, context: RunContext) -> ExecutorAnswer:
        """Pretend to do the task."""
        wishes = context.payload if isinstance(context.payload, Mapping) else {}
        seconds = _number(wishes.get("seconds"))
        if seconds > 0:
            await self._system.sleep(seconds)
        if wishes.get("success") is False:
            return Failure(error="Fake failure")
        if context.attempt <= _number(wishes.get("fail_times")):
            return Failure(error="Fake failure")
        output = f"Fake result for: {context.description}"
        return Success(output=output, confidence=CONFIDENCE)

    async def close(self) -> None:
        """Do nothing: nothing is kept."""


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return float(value)
