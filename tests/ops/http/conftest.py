"""The API over SQLite for the tests of this folder."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from support.api import API, running_api


@pytest_asyncio.fixture
async def api(sqlite_url: str, tmp_path: Path) -> AsyncIterator[API]:
    """A running API over an empty SQLite database."""
    async with running_api(sqlite_url, tmp_path) as running:
        yield running
