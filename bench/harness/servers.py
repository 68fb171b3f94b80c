"""The servers that a run starts on loopback, with settings under which nothing is lost.

The settings are read back from live connections, because a file may say anything.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import psycopg
import redis

from orchd_eventstore.sqlite import driver
from support import postgres
from support.processes import ServerProcess, free_port
from support.redis_server import READY_MARK, find_program

POSTGRESQL = "postgresql"
SQLITE = "sqlite"
REDIS = "redis"
REDIS_ALWAYS = "redis-always"

POSTGRES_SETTINGS = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_sync_method",
    "shared_buffers",
    "max_connections",
)
REDIS_OPTIONS = {
    REDIS: ("--appendonly", "no"),
    REDIS_ALWAYS: ("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
}


class Place(Protocol):
    """An empty state for one trial."""

    @property
    def url(self) -> str:
        """How a peer reaches it."""

    def size_bytes(self) -> int:
        """Return what it takes on disk, or in Redis in memory."""


class PostgresPlace:
    """A database of its own."""

    def __init__(self, url: str) -> None:
        self.url = url

    def size_bytes(self) -> int:
        """Return the size of the database, with all indexes and all bloat."""
        query = "SELECT pg_database_size(current_database())"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("CHECKPOINT")
            row = connection.execute(query).fetchone()
        assert row is not None
        return int(row[0])


class SqlitePlace:
    """A file in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "state.db"
        self.url = f"sqlite:///{self._file}"

    def size_bytes(self) -> int:
        """Return the size of the file, once nobody else has it open."""
        with suppress(sqlite3.Error), closing(sqlite3.connect(self._file)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        names = ("", "-wal", "-journal")
        files = [self._file.with_name(self._file.name + end) for end in names]
        return sum(file.stat().st_size for file in files if file.exists())


class RedisPlace:
    """A server that is emptied."""

    def __init__(self, url: str) -> None:
        self.url = url
        with redis.Redis.from_url(url) as client:
            client.flushall()

    def size_bytes(self) -> int:
        """Return the memory that Redis says it uses."""
        with redis.Redis.from_url(self.url) as client:
            memory: Any = client.info("memory")
        return int(memory["used_memory"])


class Servers:
    """The servers of a run; each is started when the first trial needs it."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self._postgres: postgres.PostgresServer | None = None
        self._redis: dict[str, str] = {}

    @property
    def postgres(self) -> postgres.PostgresServer:
        """The PostgreSQL of this run."""
        if self._postgres is None:
            running = postgres.running_server(fsync=True)
            self._postgres = self._stack.enter_context(running)
        return self._postgres

    def redis_url(self, kind: str) -> str:
        """Return the URL of the Redis of a kind."""
        if kind not in self._redis:
            running = running_redis(REDIS_OPTIONS[kind])
            self._redis[kind] = self._stack.enter_context(running)
        return self._redis[kind]

    @contextmanager
    def place(self, kind: str) -> Iterator[Place]:
        """Lend an empty state on a database of that kind."""
        if kind == SQLITE:
            with tempfile.TemporaryDirectory(dir=self._folder) as folder:
                yield SqlitePlace(Path(folder))
        elif kind == POSTGRESQL:
            server = self.postgres
            name = server.create_database()
            try:
                yield PostgresPlace(server.tcp_url(name))
            finally:
                server.drop_database(name)
        else:
            yield RedisPlace(self.redis_url(kind))

    def settings(self, kind: str) -> dict[str, str]:
        """Return the settings that durability rests on, as a live connection tells them."""
        if kind == POSTGRESQL:
            return _postgres_settings(self.postgres.url)
        if kind == SQLITE:
            return _sqlite_settings()
        return _redis_settings(self.redis_url(kind))


def _postgres_settings(url: str) -> dict[str, str]:
    found = {}
    with psycopg.connect(url, autocommit=True) as connection:
        for name in POSTGRES_SETTINGS:
            row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
            assert row is not None
            found[name] = str(row[0])
    return found


def _sqlite_settings() -> dict[str, str]:
    """Return the versions: how orchd opens a file is `orchd doctor`'s to tell."""
    return {
        "version for orchd": str(driver().sqlite_version),
        "version for peers": sqlite3.sqlite_version,
    }


def _redis_settings(url: str) -> dict[str, str]:
    with redis.Redis.from_url(url) as client:
        server: Any = client.info("server")
        told: dict[str, str] = {"redis_version": str(server["redis_version"])}
        for name in ("appendonly", "appendfsync", "save"):
            answer: Any = client.config_get(name)
            told[name] = answer[name] or "(never)"
    return told


@contextmanager
def running_redis(options: tuple[str, ...]) -> Iterator[str]:
    """Give the URL of a Redis of our own, which is stopped and removed afterwards."""
    port = free_port()
    listen = ("--port", str(port), "--bind", "127.0.0.1")
    with tempfile.TemporaryDirectory(prefix="orchd-redis-") as folder:
        server = ServerProcess(
            [find_program(), *listen, *options], ready_mark=READY_MARK, cwd=folder
        )
        try:
            if not server.wait_until_ready():
                raise RuntimeError(f"redis-server did not start: {server.log}")
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.stop()
