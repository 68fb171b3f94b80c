"""A command line with places of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.command_line import CommandLine


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    """Commands on an empty SQLite state."""
    command_line = CommandLine(tmp_path, f"sqlite:///{tmp_path / 'orchd.db'}")
    yield command_line
    command_line.close()
