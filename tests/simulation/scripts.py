"""Executors and verifiers that do whatever executors and verifiers may do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from orchd.executors.port import (
    Deferred,
    ExecutorAnswer,
    Failure,
    Final,
    RunContext,
    Success,
)
from orchd.tasks.failures import ErrorClass
from orchd.verifiers.port import Broken, Passed, Rejected
from simulation.database import UNSTORABLE
from simulation.plan import Plan
from simulation.witness import Execution, Witness
from simulation.world import EPOCH, Process, World


class ScriptedInterrupt(KeyboardInterrupt):
    """What looks to the engine like Ctrl-C, and to a person who presses it does not."""


_RAISED: tuple[Callable[[], BaseException], ...] = (
    lambda: ValueError("boom"),
    lambda: SystemExit(3),
    lambda: ScriptedInterrupt(),
    lambda: asyncio.CancelledError("mine"),
    lambda: TimeoutError("not the limit"),
    lambda: BaseException("bare"),
    lambda: StopAsyncIteration(),
)
_EXECUTION: tuple[str, ...] = (
    *("fail", "final", "defer", "dependency", "raise", "rubbish", "hang", "stubborn"),
    *("swallow", "long", "block", "quit", "unstorable"),
)
_VERIFICATION: tuple[str, ...] = (
    *("reject", "broken", "raise", "rubbish", "hang", "stubborn", "long", "reload"),
)


class Theatre:
    """Decides what bodies do; shared by all daemons of a world."""

    def __init__(self, world: World, plan: Plan, witness: Witness) -> None:
        self.world = world
        self.plan = plan
        self.witness = witness
        self.chance = world.chance("scripts")
        self.down_until: dict[str, float] = {}
        """Executor -> until when what it depends on is down."""
        self.is_loss_foreseen = False
        """Whether a body ended in a way that no body may, and took its run with it."""
        self.calm = False
        self.reload: Callable[[Process], object] = lambda process: None
        """Lets the daemon of a process go on with other settings."""
        self._hanging: list[asyncio.Event] = []

    def heal(self) -> None:
        """Let everything that hangs go on; nothing does so any more."""
        self.calm = True
        for event in self._hanging:
            event.set()

    def draw(self, kinds: tuple[str, ...]) -> str:
        """Return what a body does this time; mostly nothing special."""
        weights = [self.plan.behaviours.get(kind, 0.0) for kind in kinds]
        if self.calm:
            mild = ("fail", "reject", "raise", "final")
            weights = [w if k in mild else 0.0 for k, w in zip(kinds, weights, strict=True)]
        return self.chance.choices(("well", *kinds), (8.0, *weights))[0]

    def seconds(self, name: str = "") -> float:
        """Return how long a body takes; what is exclusive may take its time."""
        seconds = self.chance.expovariate(1.0) * self.plan.act_seconds
        return seconds * 20 if name == "lock" and self.chance.random() < 0.5 else seconds

    async def hang(self) -> None:
        """Wait for what never comes while the world is unwell."""
        event = asyncio.Event()
        self._hanging.append(event)
        if not self.calm:
            await event.wait()


class ScriptedExecutor:
    """One daemon's executor of some name."""

    kind = "scripted"

    def __init__(
        self,
        name: str,
        *,
        theatre: Theatre,
        process: Process,
        daemon: str,
        began: Callable[[Execution], object],
    ) -> None:
        self.name = name
        self.exclusive = name == "lock"
        self._theatre = theatre
        self._process = process
        self._daemon = daemon
        self._began = began
        self._chance = theatre.chance

    async def execute(self, context: RunContext) -> ExecutorAnswer:
        execution = Execution(
            self._process,
            self._daemon,
            self.name,
            context,
            is_exclusive=self.exclusive,
        )
        self._began(execution)
        try:
            return await self._act(context, execution)
        except asyncio.CancelledError:
            execution.is_told_to_stop = True
            raise
        finally:
            execution.is_over = True

    async def _act(self, context: RunContext, execution: Execution) -> ExecutorAnswer:
        theatre = self._theatre
        if theatre.world.now < theatre.down_until.get(self.name, 0.0):
            return self._dependency_failure()
        kind = theatre.draw(_EXECUTION)
        if kind not in ("fail", "raise", "quit") or self._chance.random() < 0.7:
            await asyncio.sleep(theatre.seconds(self.name))
        act = _ACTS.get(kind)
        if act is not None:
            answer: ExecutorAnswer = await act(self, context, execution)
            return answer
        return Success(output=theatre.witness.result(context), confidence=0.5)

    def _dependency_failure(self) -> ExecutorAnswer:
        kind = self._chance.randrange(4)
        if kind == 0:
            return Deferred(reason="busy", dependency=True)
        error_class = (ErrorClass.DEPENDENCY, ErrorClass.RATE_LIMITED)[kind % 2]
        after = self._chance.choice((None, None, 0.5))
        return Failure(error="down", error_class=error_class, retry_after_seconds=after)

    # --- what may happen --------------------------------------------------------------

    async def _fail(self, context: RunContext, execution: Execution) -> ExecutorAnswer:
        return Failure(error=f"failed on attempt {context.attempt}")

    async def _final(self, context: RunContext, execution: Execution) -> ExecutorAnswer:
        return Final(error="never")

    async def _defer(self, context: RunContext, execution: Execution) -> ExecutorAnswer:
        if self._chance.random() < 0.4:
            return Deferred(reason="later")
        until = EPOCH + round((self._process.world.now + self._chance.random() * 3) * 1e6)
        return Deferred(until=until, reason="later")

    async def _dependency(
        self, context: RunContext, execution: Execution
    ) -> ExecutorAnswer:
        return self._dependency_failure()

    async def _raise(self, context: RunContext, execution: Execution) -> ExecutorAnswer:
        raise self._chance.choice(_RAISED)()

    async def _unstorable(
        self, context: RunContext, execution: Execution
    ) -> ExecutorAnswer:
        return Success(output=f"a {UNSTORABLE} result")

    async def _quit(self, context: RunContext, execution: Execution) -> ExecutorAnswer:
        self._theatre.is_loss_foreseen = True
        raise GeneratorExit

    async def _rubbish(self, context: RunContext, execution: Execution) -> Any:
        return self._chance.choice((None, 7, "text", Passed()))

    async def _hang(self, context: RunContext, execution: Execution) -> ExecutorAnswer:
        await self._theatre.hang()
        return Success(output=self._theatre.witness.result(context))

    async def _long(self, context: RunContext, execution: Execution) -> ExecutorAnswer:
        await asyncio.sleep(
            self._chance.uniform(0.5, 2.0) * self._theatre.plan.lease_seconds
        )
        return Success(output=self._theatre.witness.result(context))

    async def _block(self, context: RunContext, execution: Execution) -> ExecutorAnswer:
        self._process.freeze(self._chance.uniform(0.0, 1.5))
        await asyncio.sleep(0)
        return Success(output=self._theatre.witness.result(context))

    async def _swallow(self, context: RunContext, execution: Execution) -> ExecutorAnswer:
        try:
            await self._theatre.hang()
        except asyncio.CancelledError:
            execution.is_told_to_stop = True
        return Success(output=self._theatre.witness.result(context))

    async def _stubborn(self, context: RunContext, execution: Execution) -> ExecutorAnswer:
        end = self._process.world.now + self._chance.uniform(0.5, 8.0)
        await ignore_cancellation(self._process.world, end, execution)
        return Success(output=self._theatre.witness.result(context))

    async def close(self) -> None:
        await asyncio.sleep(0)


_Act = Callable[[ScriptedExecutor, RunContext, Execution], Awaitable[Any]]
_ACTS: dict[str, _Act] = {
    "fail": ScriptedExecutor._fail,
    "final": ScriptedExecutor._final,
    "defer": ScriptedExecutor._defer,
    "dependency": ScriptedExecutor._dependency,
    "raise": ScriptedExecutor._raise,
    "rubbish": ScriptedExecutor._rubbish,
    "hang": ScriptedExecutor._hang,
    "stubborn": ScriptedExecutor._stubborn,
    "swallow": ScriptedExecutor._swallow,
    "long": ScriptedExecutor._long,
    "block": ScriptedExecutor._block,
    "quit": ScriptedExecutor._quit,
    "unstorable": ScriptedExecutor._unstorable,
}


class ScriptedVerifier:
    """One daemon's verifier of some name."""

    kind = "scripted"

    def __init__(self, name: str, *, theatre: Theatre, process: Process) -> None:
        self.name = name
        self.inline = name in ("cheap", "quick")
        self._theatre = theatre
        self._process = process
        self._chance = theatre.chance

    async def verify(self, result: Success, context: RunContext) -> Any:
        kind = self._theatre.draw(_VERIFICATION)
        if not self.inline or self._chance.random() < 0.2:
            await asyncio.sleep(self._theatre.seconds())
        if kind == "reject":
            return Rejected(feedback=f"no, attempt {context.attempt}", issues=("one",))
        if kind == "broken":
            after = self._chance.choice((None, 0.3))
            return Broken(error="down", retry_after_seconds=after)
        if kind == "raise":
            raise self._chance.choice(_RAISED)()
        if kind == "rubbish":
            return self._chance.choice((None, 7, result))
        if kind == "hang":
            await self._theatre.hang()
        if kind == "stubborn":
            end = self._process.world.now + self._chance.uniform(0.5, 8.0)
            await ignore_cancellation(self._process.world, end, None)
        if kind == "long":
            await asyncio.sleep(self._chance.uniform(0.5, 2.0))
        if kind == "reload":
            self._theatre.reload(self._process)
            await asyncio.sleep(self._theatre.seconds())
        return Passed(feedback="fine")

    async def close(self) -> None:
        await asyncio.sleep(0)


async def ignore_cancellation(
    world: World, end: float, execution: Execution | None
) -> None:
    """Go on until a moment, whoever wants to stop it."""
    while world.now < end:
        try:
            await asyncio.sleep(end - world.now)
        except asyncio.CancelledError:
            if execution is not None:
                execution.is_told_to_stop = True
