"""Drives an object written against `orchd.interfaces.Verifier` as the engine expects."""

from __future__ import annotations

from orchd.executors.adapter import CallBlocking
from orchd.executors.invocation import invocation_of, task_of
from orchd.executors.port import RunContext, Success
from orchd.executors.python import call_here
from orchd.system import System
from orchd.verifiers.port import VerifierAnswer
from orchd.verifiers.verdicts import result_of, verification_answer, verification_error


class ObjectVerifier:
    """A verifier object of an embedded orchestrator.

    Args:
        name: the verifier's name.
        target: an object with `verify(task, result)`, or a function; it may be
            asynchronous and may take `context`.
        call: runs blocking code on the thread of the embedder's choice.
        system: the clock, for `Later`.

    Raises:
        CannotLoad: `target` has no `verify` and cannot be called.
    """

    kind = "python"
    inline = False

    def __init__(
        self, name: str, target: object, call: CallBlocking, system: System
    ) -> None:
        self.name = name
        self._invocation = invocation_of(target, "verify")
        self._call = call
        self._system = system

    async def verify(self, result: Success, context: RunContext) -> VerifierAnswer:
        """Let the object judge a result; what it raises is no verdict."""
        answer = await call_here(
            self._invocation,
            context,
            (task_of(context), result_of(result)),
            self._call,
            verification_answer,
            lambda error: verification_error(error, self._system.now()),
        )
        return answer  # type: ignore[return-value]  # the two functions above say so

    async def close(self) -> None:
        """Do nothing: the object belongs to the embedder."""
