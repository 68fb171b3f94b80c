"""Awaiting what must not be broken off half done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def _nothing() -> None:
    return None


async def see_through(
    work: Awaitable[T], on_cancel: Callable[[], None] = _nothing
) -> tuple[asyncio.Future[T], asyncio.CancelledError | None]:
    """Await `work` to its end, also when the caller is cancelled meanwhile.

    Args:
        on_cancel: called at each cancellation that arrives.

    Returns:
        What has ended, and the cancellation that is due to be raised, if any.
    """
    future = asyncio.ensure_future(work)
    interruption: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError as cancelled:
            interruption = cancelled
            on_cancel()
    return future, interruption
