"""Passes hints that the log may have grown from one waiting thread to many coroutines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress

from orchd_eventstore import EventStore, StoreUnavailable

NEWS_SECONDS = 5.0
"""Longest time between two hints, should every notification be lost. Each wakes whoever
listens, and that is most of what an idle daemon does."""
RETRY_SECONDS = 1.0


class NewsHub:
    """One thread waits on the store for all listeners of this process.

    A listener that goes away takes nothing with it and nobody waits for it.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._listeners: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    async def listen(self) -> AsyncIterator[None]:
        """Yield at once, and whenever the log may have grown, at least once in
        `NEWS_SECONDS`.

        Who looks at the log after each of these misses nothing: the first one stands for
        what came before anybody listened.
        """
        news = asyncio.Event()
        news.set()
        with self._lock:
            self._listeners[news] = asyncio.get_running_loop()
            self._start()
        try:
            while not self._closed.is_set():
                await news.wait()
                news.clear()
                yield
        finally:
            with self._lock:
                self._listeners.pop(news, None)

    def _start(self) -> None:
        if self._thread is None and not self._closed.is_set():
            self._thread = threading.Thread(
                target=self._wait,
                args=(self._store.hints(),),
                name="orchd-ledger-news",
                daemon=True,
            )
            self._thread.start()

    def _wait(self, seen: int) -> None:
        while not self._closed.is_set():
            try:
                self._store.wait(NEWS_SECONDS, seen=seen)
            except StoreUnavailable:
                self._closed.wait(RETRY_SECONDS)
            # Taken before anybody is told: who looks then sees what is counted here, and
            # what comes meanwhile ends the next wait at once.
            seen = self._store.hints()
            self._tell()

    def _tell(self) -> None:
        with self._lock:
            listeners = list(self._listeners.items())
        for news, loop in listeners:
            # A loop that was closed has no listener any more.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(news.set)

    def close(self) -> None:
        """Stop waiting; whoever still listens comes to an end. Idempotent."""
        self._closed.set()
        self._store.wake()
        self._tell()
        if self._thread is not None:
            self._thread.join(timeout=5)
