"""Hints that the log may have grown are passed on, whenever they come."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from orchd.ledger.news import NEWS_SECONDS, NewsHub
from orchd_eventstore.news import News

SOON_SECONDS = NEWS_SECONDS / 2
"""Well before whoever waits would have looked anyway."""


class InterruptedStore:
    """News that come just before one of the waits for them begins.

    So it is when the thread that waits gets no processor between telling and waiting.

    Args:
        wait: which one; 0 for none.
    """

    def __init__(self, wait: int = 0) -> None:
        self.news = News()
        self.may_come = threading.Event()
        self._wait = wait
        self._begun = 0

    def hints(self) -> int:
        return self.news.count

    def wait(self, timeout_seconds: float, *, seen: int | None = None) -> None:
        self._begun += 1
        if self._begun == self._wait:
            assert self.may_come.wait(SOON_SECONDS)
            self.news.tell()
        self.news.wait(timeout_seconds, seen)

    def wake(self) -> None:
        self.news.tell()


@pytest.fixture
def hubs() -> Iterator[Any]:
    """Return what makes a hub on a store, and close all of them."""
    made: list[NewsHub] = []

    def make(store: InterruptedStore) -> NewsHub:
        made.append(NewsHub(store))  # type: ignore[arg-type]  # all that a hub needs of one
        return made[-1]

    yield make
    for hub in made:
        hub.close()


async def heard(news: AsyncIterator[None]) -> None:
    """Wait for a hint, for less than it takes to look without one."""
    async with asyncio.timeout(SOON_SECONDS):
        await anext(news)


async def test_what_came_before_anybody_listened_is_looked_at(hubs: Any) -> None:
    await heard(hubs(InterruptedStore()).listen())


@pytest.mark.parametrize("wait", [1, 2])
async def test_what_comes_just_before_a_wait_is_heard(hubs: Any, wait: int) -> None:
    store = InterruptedStore(wait)
    news = hubs(store).listen()
    await heard(news)
    for _ in range(1, wait):
        store.news.tell()
        await heard(news)
    store.may_come.set()
    await heard(news)
