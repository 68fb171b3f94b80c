"""Hints that somebody may have committed; never proof, and never lost while one looks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class News:
    """Counts hints and wakes whoever waits for the next one, thread or coroutine.

    Who reads `count` before looking at the log and waits with it afterwards cannot miss
    a hint that came in between. `on_wait` is called when somebody begins to wait.
    """

    def __init__(self, on_wait: Callable[[], None] | None = None) -> None:
        self._on_wait = on_wait
        self._condition = threading.Condition()
        self._callbacks: list[Callable[[], None]] = []
        self.count = 0

    def tell(self) -> None:
        """Wake everybody."""
        with self._condition:
            self.count += 1
            self._condition.notify_all()
            callbacks = tuple(self._callbacks)
        for callback in callbacks:
            callback()

    def wait(self, timeout_seconds: float, seen: int | None = None) -> None:
        """Block until `count` differs from `seen` (from now's), or until the timeout."""
        self._begin_to_wait()
        with self._condition:
            start = self.count if seen is None else seen
            self._condition.wait_for(lambda: self.count != start, timeout_seconds)

    @contextmanager
    def watched(self) -> Iterator[asyncio.Event]:
        """Give an event of the running loop that is set by every hint."""
        loop, event = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            # A loop that has been closed has nobody left to wake.
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

        with self._condition:
            self._callbacks.append(wake)
        try:
            self._begin_to_wait()
            yield event
        finally:
            with self._condition:
                self._callbacks.remove(wake)

    def _begin_to_wait(self) -> None:
        if self._on_wait is not None:
            self._on_wait()
