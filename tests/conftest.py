"""Fixtures for every test: real databases, each empty when a test begins."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import redis

from support import postgres, redis_server
from support.templates import StateTemplates

# On a busy machine an example's duration says nothing about the code.
hypothesis.settings.register_profile("orchd", deadline=None, print_blob=True)
hypothesis.settings.load_profile("orchd")

SERVER_VERSION = pytest.StashKey[str]()

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell lets what it starts in the background ignore Ctrl-C, and so would the programs
    # that the tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    """Name the PostgreSQL that the tests use."""
    return f"postgresql: {postgres.describe()}"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """End with one line of totals that a script can read."""
    if version := config.stash.get(SERVER_VERSION, ""):
        terminalreporter.write_line(f"tested with PostgreSQL {version}")
    terminalreporter.write_line(_totals(terminalreporter))


def _note_version(config: pytest.Config, version: str) -> None:
    """Keep the server's version for the summary, which another process may write."""
    config.stash[SERVER_VERSION] = version
    if hasattr(config, "workeroutput"):
        config.workeroutput["postgresql"] = version


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over what a worker process of the run noted."""
    version = getattr(node, "workeroutput", {}).get("postgresql")
    if version:
        node.config.stash[SERVER_VERSION] = version


def _totals(reporter: pytest.TerminalReporter) -> str:
    always = ("passed", "skipped", "deselected")
    counts = {
        outcome: len(reporter.stats.get(outcome, ()))
        for outcome in (*always, "failed", "error")
    }
    return ", ".join(
        f"{outcome} {count}"
        for outcome, count in counts.items()
        if count or outcome in always
    )


@pytest.fixture(scope="session")
def postgres_server(
    pytestconfig: pytest.Config,
) -> Iterator[postgres.PostgresServer]:
    """A running PostgreSQL for the whole session."""
    with postgres.running_server() as server:
        _note_version(pytestconfig, server.version)
        yield server


@pytest.fixture
def postgres_url(postgres_server: postgres.PostgresServer) -> Iterator[str]:
    """The URL of an empty PostgreSQL database."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'orchd.sqlite'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database, once for each kind of database."""
    fixture = {"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param]
    url: str = request.getfixturevalue(fixture)
    return url


@pytest.fixture(scope="session")
def histories(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: postgres.PostgresServer
) -> Iterator[StateTemplates]:
    """States with every kind of row."""
    from support.histories import make_history

    def make(url: str) -> None:
        asyncio.run(make_history(url))

    templates = StateTemplates(make, tmp_path_factory.mktemp("states"), postgres_server)
    yield templates
    templates.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def state_url(
    request: pytest.FixtureRequest, histories: StateTemplates, tmp_path: Path
) -> Iterator[str]:
    """The URL of a state with every kind of row, once for each kind of database."""
    with histories.copy(request.param, tmp_path) as url:
        yield url


@pytest.fixture(scope="session")
def large_states(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: postgres.PostgresServer
) -> Iterator[StateTemplates]:
    """States with enough tasks for several processes to have a share."""
    from support.large_states import make_large_state

    def make(url: str) -> None:
        make_large_state(url, 7_000)

    templates = StateTemplates(make, tmp_path_factory.mktemp("states"), postgres_server)
    yield templates
    templates.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def large_url(
    request: pytest.FixtureRequest, large_states: StateTemplates, tmp_path: Path
) -> Iterator[str]:
    """The URL of a state with many tasks, once for each kind of database."""
    with large_states.copy(request.param, tmp_path) as url:
        yield url


@pytest.fixture(scope="session")
def redis_server_url() -> Iterator[str]:
    """The URL of a running Redis for the whole session."""
    with redis_server.running_server() as url:
        yield url


@pytest.fixture
def redis_url(redis_server_url: str) -> str:
    """The URL of an empty Redis database."""
    with redis.Redis.from_url(redis_server_url) as client:
        client.flushdb()
    return redis_server_url
