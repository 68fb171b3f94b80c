"""An engine on a real ledger with executors and verifiers that do as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from orchd.config.settings import (
    Backoff,
    BreakerSettings,
    ExecutorSettings,
    RetrySettings,
    Settings,
    WorkerSettings,
)
from orchd.engine.engine import Engine
from orchd.engine.observer import Observer
from orchd.executors.port import ExecutorAnswer, RunContext, Success
from orchd.ledger.opening import open_ledger
from orchd.ledger.port import (
    ActOnTask,
    Ledger,
    LogEntry,
    Origin,
    Outcome,
    Refusal,
    Request,
    SubmitTask,
    Submitted,
)
from orchd.system import RealSystem
from orchd.tasks.commands import RecordResult, Submit
from orchd.tasks.events import TaskSubmitted
from orchd.tasks.state import TaskState
from orchd.verifiers.port import Passed, VerifierAnswer

ORIGIN = Origin(actor="test")
Body = Callable[[RunContext], Awaitable[Any]]


class ScriptedExecutor:
    """Does what the given coroutine function does, and counts."""

    kind = "scripted"

    def __init__(
        self, body: Body | None = None, *, name: str = "work", exclusive: bool = False
    ) -> None:
        self.name = name
        self.exclusive = exclusive
        self.calls: list[RunContext] = []
        self.closed = False
        self._body = body or _echo

    async def execute(self, context: RunContext) -> ExecutorAnswer:
        self.calls.append(context)
        answer: ExecutorAnswer = await self._body(context)
        return answer

    async def close(self) -> None:
        self.closed = True


async def _echo(context: RunContext) -> ExecutorAnswer:
    return Success(output=context.description)


class ScriptedVerifier:
    """Gives the given answers one after the other, then passes."""

    kind = "scripted"

    def __init__(
        self, answers: Sequence[Any] = (), *, name: str = "judge", inline: bool = False
    ) -> None:
        self.name = name
        self.inline = inline
        self.answers = list(answers)
        self.calls: list[str] = []

    async def verify(self, result: Success, context: RunContext) -> VerifierAnswer:
        self.calls.append(result.output)
        answer = self.answers.pop(0) if self.answers else Passed(feedback="fine")
        if isinstance(answer, BaseException):
            raise answer
        if callable(answer):
            answer = await answer()
        verdict: VerifierAnswer = answer
        return verdict

    async def close(self) -> None:
        return None


STUBBORN_SECONDS = 30.0


class StubbornVerdict:
    """A verifier's answer that ignores every cancellation until it is released.

    Then it passes, or raises the error that it was given.
    It gives in after `STUBBORN_SECONDS`, so that a test that fails ends all the same.
    """

    def __init__(self, error: BaseException | None = None) -> None:
        self.released = asyncio.Event()
        self._error = error

    async def __call__(self) -> Passed:
        loop = asyncio.get_running_loop()
        end = loop.time() + STUBBORN_SECONDS
        while not self.released.is_set() and loop.time() < end:
            with suppress(asyncio.CancelledError, TimeoutError):
                async with asyncio.timeout_at(end):
                    await self.released.wait()
        if self._error is not None:
            raise self._error
        return Passed()


NO_WAIT = RetrySettings(backoff=Backoff(initial_seconds=0.0, jitter=False))


def settings_for(
    url: str,
    *,
    retry: RetrySettings = NO_WAIT,
    breaker: BreakerSettings | None = None,
    **worker: Any,
) -> Settings:
    """Return settings without waiting between attempts."""
    defaults: dict[str, Any] = {"concurrency": 4, "kill_grace_seconds": 0.2}
    executor = ExecutorSettings(
        name="work", type="echo", retry=retry, breaker=breaker or BreakerSettings()
    )
    return Settings(
        database=url,
        worker=WorkerSettings(**(defaults | worker)),
        retry=retry,
        executors={"work": executor},
        breaker=breaker or BreakerSettings(),
    )


class Harness:
    """One engine at work, and short ways to ask it for things."""

    def __init__(self, ledger: Ledger, engine: Engine) -> None:
        self.ledger = ledger
        self.engine = engine

    @classmethod
    async def open(
        cls,
        url: str,
        executors: Sequence[Any],
        verifiers: Sequence[Any] = (),
        *,
        settings: Settings | None = None,
        observers: Sequence[Observer] = (),
        start: bool = True,
        system: RealSystem | None = None,
    ) -> Harness:
        system = system or RealSystem()
        ledger = open_ledger(url, system=system, access="write", create=True, migrate=True)
        await ledger.open()
        engine = Engine(
            ledger=ledger,
            executors={part.name: part for part in executors},
            verifiers={part.name: part for part in verifiers},
            settings=settings or settings_for(url),
            system=system,
            observers=observers,
        )
        if start:
            await engine.start()
        return cls(ledger, engine)

    async def close(self) -> None:
        await self.engine.stop()
        await self.ledger.close()

    async def crash(self) -> None:
        """Leave as a killed process leaves: nothing is drained, retired or recorded."""
        engine = self.engine
        for service in (engine.lease, engine.committer):
            await service.stop()
        for run in engine.runs():
            if run.task is not None:
                run.task.cancel()
        await self.ledger.close()

    def request(self, task_id: str, **fields: Any) -> SubmitTask:
        """Return the request that submits a task for executor `work`."""
        known: dict[str, Any] = {
            "description": f"do {task_id}",
            "executor": "work",
            "max_attempts": 3,
            "body_hash": task_id,
        }
        submitted = TaskSubmitted(**(known | fields))
        command = Submit(now=self.engine.clock.now(), submitted=submitted)
        return SubmitTask(task_id=task_id, command=command, origin=ORIGIN)

    async def submit(self, task_id: str, **fields: Any) -> TaskState:
        """Submit a task for executor `work` and return its state."""
        outcome: Outcome = await self.engine.request(self.request(task_id, **fields))
        assert isinstance(outcome, Submitted), outcome
        return outcome.state

    async def settle(self, timeout_seconds: float = 20.0) -> None:
        """Wait until nothing can go on by itself."""
        async with asyncio.timeout(timeout_seconds):
            await self.engine.wait_until_idle()

    async def task(self, task_id: str) -> TaskState:
        state = await self.ledger.task(task_id)
        assert state is not None, task_id
        return state

    async def events(self, task_id: str) -> list[LogEntry]:
        return await self.ledger.task_events(task_id)

    async def event_types(self, task_id: str) -> list[str]:
        """Return the names of a task's events without their `task.`."""
        return [entry.type.removeprefix("task.") for entry in await self.events(task_id)]


def data_of(entry: LogEntry) -> Mapping[str, Any]:
    """Return the data of a logged event."""
    data: Mapping[str, Any] = msgspec.json.decode(entry.data)
    return data


def refused_with(outcome: Outcome) -> str:
    """Return the code of a refusal."""
    assert isinstance(outcome, Refusal), outcome
    return outcome.code


async def until(condition: Callable[[], bool], timeout_seconds: float = 10.0) -> None:
    """Wait until `condition` holds; fail when it never does."""
    async with asyncio.timeout(timeout_seconds):
        while not condition():
            await asyncio.sleep(0.005)


def records_result(request: Request) -> bool:
    """Tell whether a request records the result of a run that goes on."""
    return isinstance(request, ActOnTask) and isinstance(request.command, RecordResult)
