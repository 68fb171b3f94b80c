"""Judges in a child process what may take for ever, so that it can be broken off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from orchd.config.settings import WorkerSettings
from orchd.executors.pool import CannotLoadTarget, ChildDied, ChildPool, ChildSettings
from orchd.executors.port import RunContext, Success
from orchd.executors.wire import context_message
from orchd.system import System
from orchd.verifiers.port import Broken, VerifierAnswer

JUDGING_SECONDS_MAX = 5.0


class ChildJudge:
    """A judge of this program's own, built and asked in warm child processes.

    Args:
        name: the verifier's name.
        target: `module:class`; its `verify(task, result)` is what judges.
        arguments: what the class is built with.
        subject: what takes too long when it does, for people.
        mark: `<state>/<worker>` of the daemon, for the marks of its processes.
    """

    def __init__(
        self,
        name: str,
        target: str,
        arguments: Mapping[str, Any],
        subject: str,
        *,
        worker: WorkerSettings,
        system: System,
        mark: str,
    ) -> None:
        self._name = name
        self._subject = subject
        child = ChildSettings(
            name=name,
            target=target,
            method="verify",
            arguments=dict(arguments),
            env={},
            worker=worker,
            mark=mark,
        )
        self._pool = ChildPool(child, system)

    async def verify(self, result: Success, context: RunContext) -> VerifierAnswer:
        """Judge a result; a child that takes too long is killed, which is no verdict."""
        try:
            async with asyncio.timeout(JUDGING_SECONDS_MAX):
                return await self._judged(result, context)
        except TimeoutError:
            limit = f"{JUDGING_SECONDS_MAX:g} s"
            return Broken(error=f"{self._subject} of {self._name} took longer than {limit}")
        except (CannotLoadTarget, ChildDied, OSError) as error:
            return Broken(error=f"verifier {self._name}: {error}")

    async def _judged(self, result: Success, context: RunContext) -> VerifierAnswer:
        request = {"context": context_message(context), "result": result}
        heartbeat: Callable[[], None] = context.heartbeat
        answer = await self._pool.call(request, heartbeat)
        return answer  # type: ignore[return-value]  # the target is a verifier

    async def close(self) -> None:
        """Stop the warm children; idempotent."""
        await self._pool.close()
