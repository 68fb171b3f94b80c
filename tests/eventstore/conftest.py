"""A store on each kind of database, and a proxy in front of PostgreSQL."""

import urllib.parse
from collections.abc import Iterator

import pytest

from orchd_eventstore import EventStore
from support.eventstores import create_schema, open_store
from support.postgres import PostgresServer
from support.postgres_proxy import PostgresProxy, running_proxy


@pytest.fixture
def store_url(database_url: str) -> str:
    """The URL of a database that holds an empty log."""
    create_schema(database_url)
    return database_url


@pytest.fixture
def store(store_url: str) -> Iterator[EventStore]:
    """A store with an empty log, once for each kind of database."""
    opened = open_store(store_url)
    yield opened
    opened.close()


@pytest.fixture
def postgres_store_url(postgres_url: str) -> str:
    """The URL of a PostgreSQL database that holds an empty log."""
    create_schema(postgres_url)
    return postgres_url


@pytest.fixture
def postgres_store(postgres_store_url: str) -> Iterator[EventStore]:
    """A store on PostgreSQL with an empty log."""
    opened = open_store(postgres_store_url)
    yield opened
    opened.close()


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[PostgresProxy]:
    """A proxy in front of the PostgreSQL of the session."""
    with running_proxy(postgres_server.host, postgres_server.port) as proxy:
        yield proxy


@pytest.fixture
def proxied_url(
    postgres_store_url: str, postgres_server: PostgresServer, proxy: PostgresProxy
) -> str:
    """The URL that leads to `postgres_store_url` through the proxy."""
    name = urllib.parse.urlsplit(postgres_store_url).path.lstrip("/")
    return proxy.url(postgres_server.tcp_url(name, port=proxy.port))


@pytest.fixture
def proxied_store(proxied_url: str) -> Iterator[EventStore]:
    """A store that reaches PostgreSQL through the proxy."""
    opened = open_store(proxied_url)
    yield opened
    opened.close()
