"""Where a user's code runs while the engine works on a loop of its own.

A desk carries functions from the engine's loop to the thread that the user's store, hooks
and safety check belong to, one at a time and in order.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from orchd.executors.threads import in_thread


class Desk(Protocol):
    """What a session needs in order to reach the user's side."""

    async def call(self, function: Callable[[], object]) -> object:
        """Run a function of the user's side and return what it returns."""
        ...

    async def call_blocking(self, function: Callable[[], object]) -> object:
        """Run an executor or a verifier, which may take long."""
        ...

    def hosted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a coroutine function that runs `function` on the loop of its owner."""
        ...

    def close(self) -> None:
        """Tell that nothing more will be called."""
        ...


class Interrupted(Exception):
    """The program was interrupted while it carried out a function."""


class _Outcome(NamedTuple):
    value: object
    error: BaseException | None


class _Call(NamedTuple):
    function: Callable[[], object]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[_Outcome]
    answers_interrupts: bool = True
    """Whether the caller hears of an interrupt; else it is left to be cancelled."""

    def carry_out(self) -> None:
        try:
            outcome = _Outcome(self.function(), None)
        except Exception as error:
            outcome = _Outcome(None, error)
        except BaseException as error:
            if self.answers_interrupts:
                self._answer(_Outcome(None, Interrupted(repr(error))))
            raise
        self._answer(outcome)

    def _answer(self, outcome: _Outcome) -> None:
        # The loop may have been closed by an interrupted run.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._tell, outcome)

    def _tell(self, outcome: _Outcome) -> None:
        if not self.future.done():
            self.future.set_result(outcome)


def _value_of(outcome: _Outcome) -> object:
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


class CallerDesk:
    """Carries functions to the thread that called `run()` and waits in `serve`.

    Args:
        alone: whether executors run on that thread too, because there is one worker.
    """

    def __init__(self, alone: bool) -> None:
        self._alone = alone
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()

    async def call(self, function: Callable[[], object]) -> object:
        """Run a function on the caller's thread.

        Raises:
            Interrupted: the program was interrupted meanwhile.
        """
        return await self._call(function, answers_interrupts=True)

    async def _call(
        self, function: Callable[[], object], *, answers_interrupts: bool
    ) -> object:
        loop = asyncio.get_running_loop()
        call = _Call(function, loop, loop.create_future(), answers_interrupts)
        self._calls.put(call)
        return _value_of(await call.future)

    async def call_blocking(self, function: Callable[[], object]) -> object:
        """Run a function on the caller's thread, or in a thread of its own."""
        if not self._alone:
            return await in_thread(function, "executor")
        return await self._call(lambda: _interruptible(function), answers_interrupts=False)

    def hosted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function: the engine's loop is the only one there is."""
        return function

    def close(self) -> None:
        """Let `serve` return."""
        self._calls.put(None)

    def serve(self) -> None:
        """Carry out what is called, until the desk is closed.

        An interrupt (Ctrl-C) leaves this method; it can be called again.
        """
        while (call := self._calls.get()) is not None:
            call.carry_out()


def _interruptible(function: Callable[[], object]) -> object:
    # Whatever an executor raises is caught as a failure of its task. On the caller's
    # thread a KeyboardInterrupt is meant for the program.
    made = function()
    if isinstance(made, tuple) and made and isinstance(made[-1], KeyboardInterrupt):
        raise made[-1]
    return made


class LoopDesk:
    """Carries functions to the event loop that awaits `run_async()`.

    Executors that block run in threads, so that the loop stays responsive; coroutines
    run on the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    async def call(self, function: Callable[[], object]) -> object:
        """Run a function on the loop's thread."""
        here = asyncio.get_running_loop()
        call = _Call(function, here, here.create_future())
        self._loop.call_soon_threadsafe(call.carry_out)
        return _value_of(await call.future)

    async def call_blocking(self, function: Callable[[], object]) -> object:
        """Run a function in a thread of its own."""
        return await in_thread(function, "executor")

    def hosted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that awaits the user's coroutine on the user's loop."""

        async def elsewhere(*arguments: object, **named: object) -> object:
            coroutine = function(*arguments, **named)
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
            return await asyncio.wrap_future(future)

        return elsewhere

    def close(self) -> None:
        """Do nothing: the loop goes on."""


class LoopThread:
    """An event loop on a daemon thread of its own."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            _finish(self.loop)

    @property
    def is_here(self) -> bool:
        """Whether the calling code runs on this very thread."""
        return threading.current_thread() is self._thread

    def submit(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Start a coroutine; return its `concurrent.futures.Future`."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def wait_for(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine and return its result.

        Raises:
            RuntimeError: called on the loop's own thread, which would wait for ever.
        """
        if self.is_here:
            coroutine.close()
            raise RuntimeError(
                "this blocks the event loop that would answer; call it from a thread "
                "(asyncio.to_thread) or from code that is not asynchronous"
            )
        return self.submit(coroutine).result()

    def close(self) -> None:
        """End the loop and its thread; idempotent."""
        if not self.loop.is_closed():
            with suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()


def _finish(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
