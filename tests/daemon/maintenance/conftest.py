"""States with a history; nothing runs on them."""

from __future__ import annotations

import asyncio

import pytest

from support.histories import make_history


@pytest.fixture
def state_url(database_url: str) -> str:
    """The URL of a state with a history; nothing runs on it."""
    asyncio.run(make_history(database_url))
    return database_url
