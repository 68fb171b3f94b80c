"""Engines on an empty database of either kind, closed when a test ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import pytest

from support.engines import Harness, settings_for

Open: TypeAlias = Callable[..., Awaitable[Harness]]
"""Given executors and options of `Harness.open`, returns an engine at work."""


@pytest.fixture
async def start(database_url: str) -> AsyncIterator[Open]:
    """Open engines that live as long as the test."""
    opened: list[Harness] = []

    async def open_harness(*executors: Any, **options: Any) -> Harness:
        settings = options.pop("settings", None) or settings_for(database_url)
        harness = await Harness.open(database_url, executors, settings=settings, **options)
        opened.append(harness)
        return harness

    yield open_harness
    for harness in opened:
        await harness.close()
