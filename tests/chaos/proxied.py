"""A fleet whose way to PostgreSQL leads through a proxy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chaos.fleet import Fleet, fleet
from support.postgres import PostgresServer
from support.postgres_proxy import PostgresProxy, running_proxy


@contextmanager
def through_a_proxy(
    home: Path, server: PostgresServer, toml: str
) -> Iterator[tuple[Fleet, PostgresProxy]]:
    """Give a fleet that reaches a fresh database through a proxy; the tests do not."""
    name = server.create_database()
    with (
        running_proxy(server.host, server.port) as proxy,
        fleet(home, server.database_url(name), toml) as there,
    ):
        url = proxy.url(server.tcp_url(name, port=proxy.port))
        there.installation.environment["ORCHD_DATABASE"] = url
        yield there, proxy
