"""Runs blocking code in threads that never keep the daemon from ending."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def in_thread(call: Callable[[], T], name: str) -> T:
    """Run `call` in a daemon thread and return what it returns.

    When the caller is cancelled the thread goes on unheeded: a thread cannot be stopped.
    A pool of the standard library would wait for it when the process ends.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[T] = loop.create_future()

    def work() -> None:
        try:
            value = call()
        except BaseException as error:
            _tell(loop, ended, functools.partial(ended.set_exception, _carried(error)))
        else:
            _tell(loop, ended, functools.partial(ended.set_result, value))

    threading.Thread(target=work, name=f"orchd-{name}", daemon=True).start()
    return await ended


def _tell(
    loop: asyncio.AbstractEventLoop, ended: asyncio.Future[T], act: Callable[[], None]
) -> None:
    def act_if_awaited() -> None:
        if not ended.done():
            act()

    # The loop may have ended meanwhile; then nobody waits.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(act_if_awaited)


def _carried(error: BaseException) -> BaseException:
    # A future refuses StopIteration.
    if isinstance(error, StopIteration):
        return RuntimeError(f"StopIteration: {error}")
    return error
