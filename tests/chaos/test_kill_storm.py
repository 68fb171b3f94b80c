"""`kill -9` in the middle of a bulk job loses nothing. Full size: `make chaos`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.kill_storm import storm

TASKS = int(os.environ.get("ORCHD_TEST_STORM_TASKS", "1000"))
KILLS = int(os.environ.get("ORCHD_TEST_STORM_KILLS", "3"))
SEED = int(os.environ.get("ORCHD_TEST_STORM_SEED", "1"))


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="orchd-") as directory:
        yield Path(directory)


@pytest.mark.timeout(1800)
def test_a_storm_of_kills_loses_nothing_on_sqlite(home: Path) -> None:
    storm(home, f"sqlite:///{home}/orchd.db", tasks=TASKS, kills=KILLS, seed=SEED)


@pytest.mark.timeout(1800)
def test_a_storm_of_kills_loses_nothing_on_postgresql(
    home: Path, postgres_url: str
) -> None:
    storm(home, postgres_url, tasks=TASKS, kills=KILLS, seed=SEED)
