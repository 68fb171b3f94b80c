"""Drives an object written against `orchd.interfaces.Executor` as the engine expects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from orchd.executors.invocation import (
    execution_answer,
    execution_error,
    invocation_of,
    task_of,
)
from orchd.executors.port import ExecutorAnswer, RunContext
from orchd.executors.python import call_here
from orchd.system import System

CallBlocking = Callable[[Callable[[], object]], Awaitable[object]]
"""Runs a blocking call on the thread of the caller's choice and returns its value."""


class ObjectExecutor:
    """An executor object of an embedded orchestrator.

    Args:
        name: the executor's name.
        target: an object with `execute(task)`, or a function; it may be asynchronous and
            may take `context`.
        call: runs blocking code on the thread of the embedder's choice.
        system: the clock, for `Later`.

    Raises:
        CannotLoad: `target` has no `execute` and cannot be called.
    """

    kind = "python"
    exclusive = False

    def __init__(
        self, name: str, target: object, call: CallBlocking, system: System
    ) -> None:
        self.name = name
        self._invocation = invocation_of(target, "execute")
        self._call = call
        self._system = system

    async def execute(self, context: RunContext) -> ExecutorAnswer:
        """Let the object execute a task; what it raises is a failure of the task."""
        answer = await call_here(
            self._invocation,
            context,
            (task_of(context),),
            self._call,
            execution_answer,
            lambda error: execution_error(error, self._system.now()),
        )
        return answer  # type: ignore[return-value]  # the two functions above say so

    async def close(self) -> None:
        """Do nothing: the object belongs to the embedder."""
