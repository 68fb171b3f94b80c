"""Drives the user's executor and verifier, and keeps the very results they exchange."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from orchd.embedded.desks import Desk
from orchd.executors.invocation import (
    CannotLoad,
    Invocation,
    execution_answer,
    execution_error,
    invocation_of,
    task_of,
)
from orchd.executors.port import ExecutorAnswer, Failure, Final, RunContext, Success
from orchd.executors.python import call_here
from orchd.interfaces import ExecutionResult
from orchd.ledger.task_store import EXECUTOR
from orchd.system import System
from orchd.tasks.failures import ErrorClass
from orchd.verifiers.port import Broken, Passed, VerifierAnswer
from orchd.verifiers.verdicts import result_of, verification_answer, verification_error

Results = dict[str, ExecutionResult]
"""The result that each task's executor returned last, by task id."""


class UserExecutor:
    """The user's executor object as the engine drives it.

    Args:
        target: returns the executor object; asked at every run, since it may change.
        results: where each returned result is kept, for the verifier and the hooks.
        executed: told whenever an execution ended.
    """

    name = EXECUTOR
    kind = "python"
    exclusive = False

    def __init__(
        self,
        target: Callable[[], object],
        desk: Desk,
        system: System,
        results: Results,
        executed: Callable[[], None],
    ) -> None:
        self._target = target
        self._desk = desk
        self._system = system
        self._results = results
        self._executed = executed

    async def execute(self, context: RunContext) -> ExecutorAnswer:
        """Let the object execute a task."""
        try:
            invocation = _hosted(invocation_of(self._target(), "execute"), self._desk)
        except CannotLoad as error:
            return Failure(error=str(error), error_class=ErrorClass.CANNOT_START)
        answer: Any = await call_here(
            invocation,
            context,
            (task_of(context),),
            self._desk.call_blocking,
            lambda value: self._answer(context.task_id, value),
            lambda error: execution_error(error, self._system.now()),
        )
        self._executed()
        checked: ExecutorAnswer = answer
        return checked

    def _answer(self, task_id: str, value: object) -> ExecutorAnswer:
        answer = execution_answer(value)
        if isinstance(value, ExecutionResult) and isinstance(answer, Success):
            self._results[task_id] = value
        if isinstance(value, ExecutionResult) and isinstance(answer, Failure):
            return _classified(answer, value)
        return answer

    async def close(self) -> None:
        """Do nothing: the object belongs to the user."""


def _classified(failure: Failure, result: ExecutionResult) -> ExecutorAnswer:
    # An executor of this package says in the metadata what kind of failure it met.
    named = result.metadata.get("error_class")
    if not isinstance(named, str) or named not in list(ErrorClass):
        return failure
    kind = ErrorClass(named)
    if result.metadata.get("final") is True:
        return Final(error=failure.error, error_class=kind)
    wait = result.metadata.get("retry_after_seconds")
    seconds = float(wait) if isinstance(wait, int | float) else None
    return Failure(error=failure.error, error_class=kind, retry_after_seconds=seconds)


class UserVerifier:
    """The user's verifier object as the engine drives it; passes all without one.

    Args:
        target: returns the verifier object, or None when results are not verified.
    """

    name = EXECUTOR
    kind = "python"

    def __init__(
        self,
        target: Callable[[], object | None],
        desk: Desk,
        system: System,
        results: Results,
    ) -> None:
        self._target = target
        self._desk = desk
        self._system = system
        self._results = results

    @property
    def inline(self) -> bool:
        """Whether there is nothing to ask."""
        return self._target() is None

    async def verify(self, result: Success, context: RunContext) -> VerifierAnswer:
        """Let the object judge a result."""
        target = self._target()
        if target is None:
            return Passed()
        try:
            invocation = _hosted(invocation_of(target, "verify"), self._desk)
        except CannotLoad as error:
            return Broken(error=str(error))
        given = self._results.get(context.task_id) or result_of(result)
        answer: Any = await call_here(
            invocation,
            context,
            (task_of(context), given),
            self._desk.call_blocking,
            verification_answer,
            lambda error: verification_error(error, self._system.now()),
        )
        checked: VerifierAnswer = answer
        return checked

    async def close(self) -> None:
        """Do nothing: the object belongs to the user."""


def _hosted(invocation: Invocation, desk: Desk) -> Invocation:
    if not invocation.asynchronous:
        return invocation
    function = desk.hosted(invocation.function)
    return msgspec.structs.replace(invocation, function=function)
