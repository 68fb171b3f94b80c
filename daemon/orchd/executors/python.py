"""The executor that runs a user's Python class or function."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from orchd.config.settings import ExecutorSettings, WorkerSettings
from orchd.executors.invocation import (
    CannotLoad,
    Invocation,
    execution_answer,
    execution_error,
    load,
    own_cancellation,
    task_of,
)
from orchd.executors.pool import CannotLoadTarget, ChildDied, ChildPool, ChildSettings
from orchd.executors.port import ExecutorAnswer, Failure, RunContext
from orchd.executors.threads import in_thread
from orchd.executors.wire import Answer, context_message
from orchd.system import System
from orchd.tasks.failures import ErrorClass

PROCESS = "process"
THREAD = "thread"


class PythonHost:
    """Where a user's Python code runs; executors and verifiers share it.

    Coroutine functions run in the event loop. Other code runs in warm child processes
    (`process`: it can be stopped, and its crash harms nobody) or in threads (`thread`:
    no start-up cost and shared memory, but code that does not return cannot be stopped).
    The daemon imports the code only when it has to: for threads and coroutines.
    """

    def __init__(self, settings: ChildSettings, isolation: str, system: System) -> None:
        self._settings = settings
        self._isolation = isolation
        self._pool = ChildPool(settings, system)
        self._invocation: Invocation | None = None
        self._in_children = False
        self._search: asyncio.Task[None] | None = None
        self._dismissal: asyncio.Task[None] | None = None

    async def answer(
        self,
        context: RunContext,
        *,
        request: dict[str, Any],
        arguments: tuple[object, ...],
        on_value: Callable[[object], Answer],
        on_error: Callable[[BaseException], Answer],
    ) -> Answer:
        """Run the code once and return its answer.

        Args:
            request: what a child needs besides the context.
            arguments: what code in this process is called with besides the context.
            on_value, on_error: make the answer here; a child makes its own.

        Raises:
            CannotLoad, CannotLoadTarget, ChildDied, OSError: the code cannot be run, or
                its process ended.
        """
        invocation = self._invocation or await self._find()
        if invocation is None:
            message = {"context": context_message(context), **request}
            return await self._pool.call(message, context.heartbeat)
        return await call_here(
            invocation, context, arguments, self._in_thread, on_value, on_error
        )

    async def _find(self) -> Invocation | None:
        # None: the code runs in children.
        if self._invocation is None and not self._in_children:
            # One search for all who ask: a thousand first tasks must not start a thousand
            # children to learn the same.
            if self._search is None:
                self._search = asyncio.create_task(self._look())
                self._search.add_done_callback(self._looked)
            await asyncio.shield(self._search)
        return self._invocation

    async def _look(self) -> None:
        if self._isolation == PROCESS and not await self._pool.asynchronous():
            self._in_children = True
        else:
            self._invocation = await in_thread(self._load, "load")
            # No task waits for the end of the child that told how the code runs.
            self._dismissal = asyncio.create_task(self._pool.close())

    def _looked(self, search: asyncio.Task[None]) -> None:
        self._search = None
        if not search.cancelled():
            # It may be that nobody waits for it any more.
            search.exception()

    def _load(self) -> Invocation:
        settings = self._settings
        return load(settings.target, settings.method, dict(settings.arguments))

    async def _in_thread(self, call: Callable[[], object]) -> object:
        return await in_thread(call, self._settings.name)

    async def close(self) -> None:
        """Stop the children."""
        search = self._search
        if search is not None:
            search.cancel()
            await asyncio.wait((search,))
        if self._dismissal is not None:
            await asyncio.wait((self._dismissal,))
        await self._pool.close()


async def call_here(
    invocation: Invocation,
    context: RunContext,
    arguments: tuple[object, ...],
    call_blocking: Callable[[Callable[[], object]], Awaitable[object]],
    on_value: Callable[[object], Answer],
    on_error: Callable[[BaseException], Answer],
) -> Answer:
    """Run code in this process: coroutines in the loop, the rest by `call_blocking`.

    Raises:
        asyncio.CancelledError: the caller was cancelled.
    """

    def outcome() -> tuple[bool, object]:
        # Caught where it happens: neither a thread nor the loop survives SystemExit.
        try:
            return True, invocation.call(context, *arguments)
        except BaseException as error:
            return False, error

    blocking = not invocation.asynchronous
    made: Any = await call_blocking(outcome) if blocking else outcome()
    returned, value = made
    if not returned:
        return on_error(value)
    if not inspect.isawaitable(value):
        return on_value(value)
    return await _outcome_of(value, on_value, on_error)


async def _outcome_of(
    value: Awaitable[object],
    on_value: Callable[[object], Answer],
    on_error: Callable[[BaseException], Answer],
) -> Answer:
    try:
        return on_value(await value)
    except asyncio.CancelledError as cancelled:
        return on_error(own_cancellation(cancelled))
    except Exception as error:
        return on_error(error)
    except (SystemExit, KeyboardInterrupt) as error:
        return on_error(error)


class PythonExecutor:
    """Runs a user's class or function for tasks."""

    kind = "python"

    def __init__(
        self,
        settings: ExecutorSettings,
        worker: WorkerSettings,
        system: System,
        mark: str,
    ) -> None:
        self.name = settings.name
        self.exclusive = settings.exclusive
        self._system = system
        child = ChildSettings(
            name=settings.name,
            target=settings.target or "",
            method="execute",
            arguments=settings.options,
            env=settings.env,
            worker=worker,
            mark=mark,
        )
        self._host = PythonHost(child, settings.isolation, system)

    async def execute(self, context: RunContext) -> ExecutorAnswer:
        """Run the code for a task."""
        try:
            answer = await self._host.answer(
                context,
                request={},
                arguments=(task_of(context),),
                on_value=execution_answer,
                on_error=lambda error: execution_error(error, self._system.now()),
            )
        except (CannotLoad, CannotLoadTarget, OSError) as error:
            return Failure(error=str(error), error_class=ErrorClass.CANNOT_START)
        except ChildDied as error:
            what = f"executor {self.name}: {error}"
            return Failure(error=what, error_class=ErrorClass.EXCEPTION)
        return answer  # type: ignore[return-value]  # on_value and on_error say so

    async def close(self) -> None:
        """Stop the warm children."""
        await self._host.close()
