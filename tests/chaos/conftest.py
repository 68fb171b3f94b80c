"""Places for a storm: short paths for sockets, and databases of both kinds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.postgres import PostgresServer, restartable_server
from support.postgres_cluster import Cluster

Figures = Callable[..., None]


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Figures:
    """Notes figures by name; the test run ends with them."""

    def note(**named: object) -> None:
        for name, value in named.items():
            record_property(name, f"{value:.2f}" if isinstance(value, float) else value)

    return note


@pytest.fixture(scope="package")
def restartable() -> Iterator[tuple[PostgresServer, Cluster]]:
    """A PostgreSQL that waits for its disk, and that may be crashed and started again."""
    with restartable_server() as started:
        yield started


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the figures of every storm."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            for name, value in report.user_properties:
                test = report.nodeid.rpartition("::")[2]
                terminalreporter.write_line(f"{test}: {name} {value}")


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="orchd-") as directory:
        yield Path(directory)


@pytest.fixture
def sqlite_state(home: Path) -> str:
    """The URL of a SQLite state that does not exist yet."""
    return f"sqlite:///{home}/orchd.db"
