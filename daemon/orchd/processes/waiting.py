"""Awaiting what must not be broken off half done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def _nothing() -> None:
    return None


async def see_through(
    work: Coroutine[Any, Any, T], on_cancel: Callable[[], None] = _nothing
) -> tuple[asyncio.Task[T], asyncio.CancelledError | None]:
    """Await `work` to its end, also when the caller is cancelled meanwhile.

    Args:
        on_cancel: called at each cancellation that arrives.

    Returns:
        The ended task, and the cancellation that is due to be raised, if any.
    """
    task = asyncio.create_task(work)
    interruption: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as cancelled:
            interruption = cancelled
            on_cancel()
    return task, interruption
