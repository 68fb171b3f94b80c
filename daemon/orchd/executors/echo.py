"""The executor that answers with the description."""

from __future__ import annotations

from orchd.config.settings import ExecutorSettings
from orchd.executors.port import ExecutorAnswer, RunContext, Success


class EchoExecutor:
    """Answers with the task's own description, at once."""

    kind = "echo"

    def __init__(self, settings: ExecutorSettings) -> None:
        self.name = settings.name
        self.exclusive = settings.exclusive

    async def execute(self, context: RunContext) -> ExecutorAnswer:
        """Return the description as the result."""
        return Success(output=context.description)

    async def close(self) -> None:
        """Do nothing: nothing is kept."""
