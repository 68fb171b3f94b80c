"""Event stores for tests: a small projection, items, and the database behind a store."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import sqlalchemy as sa

from orchd_eventstore import (
    Append,
    Column,
    EventStore,
    Kind,
    NewEvent,
    Projection,
    Table,
    creation,
)
from orchd_eventstore.addresses import postgres_parameters
from orchd_eventstore.sqlite import driver

metadata = sa.MetaData()
_DECLARED = Table(
    "things",
    (
        Column("id", Kind.TEXT),
        Column("version", Kind.INTEGER),
        Column("slug", Kind.TEXT, is_optional=True),
        Column("amount", Kind.INTEGER),
        Column("made_by", Kind.TEXT),
    ),
)
things = creation.declared(
    _DECLARED, metadata, sa.CheckConstraint("amount >= 0", name="things_amount_check")
)
sa.Index("things_slug_key", things.c.slug, unique=True)
THINGS = Projection("things", _DECLARED, immutable=frozenset({"made_by"}))


def create_schema(url: str) -> None:
    """Create the store's tables and the projection's in an empty database."""
    with connected(url) as connection:
        metadata.create_all(connection)
        creation.create_all(connection, [THINGS])


def open_store(url: str, *, clock: Callable[[], int] | None = None) -> EventStore:
    """Open a store with the projection."""
    return EventStore.open(url, [THINGS], clock=clock)


@contextlib.contextmanager
def connected(url: str) -> Iterator[sa.Connection]:
    """Lend a connection of nobody's store; what it did is committed at the end."""
    options: dict[str, Any] = {}
    if url.startswith("sqlite"):
        # Two copies of SQLite in one process would drop each other's locks.
        options["module"] = driver()
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool, **options)
    with engine.begin() as connection:
        yield connection


@contextlib.contextmanager
def autocommitting(url: str) -> Iterator[Any]:
    """Lend the driver's own connection, in autocommit mode, as migrations want it."""
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        connection = driver().connect(path, isolation_level=None)
    else:
        connection = psycopg.connect(**postgres_parameters(url), autocommit=True)
    with contextlib.closing(connection):
        yield connection


@contextlib.contextmanager
def unprotected(url: str) -> Iterator[sa.Connection]:
    """Lend a connection for changes by hand that the database would refuse."""
    with connected(url) as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET session_replication_role = replica")
            yield connection
            return
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        triggers = connection.exec_driver_sql(query).all()
        for name, _ in triggers:
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        yield connection
        for _, statement in triggers:
            connection.exec_driver_sql(statement)


WAITING = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    " AND wait_event_type = 'Lock' AND position('eventstore_append' IN query) > 0"
)


def waiting_backends(url: str, count: int) -> list[int]:
    """Return the backends whose appends wait for a lock, once there are so many."""
    deadline = time.monotonic() + 10
    found: list[int] = []
    while time.monotonic() < deadline:
        # Within one transaction the server would always show the same activity.
        with connected(url) as connection:
            found = [row[0] for row in connection.exec_driver_sql(WAITING)]
        if len(found) == count:
            return found
        time.sleep(0.01)
    raise AssertionError(f"{found} wait, not {count}")


def event(kind: str = "thing.made", **data: Any) -> NewEvent:
    """Return an event."""
    return NewEvent.of(kind, data, {"schema": 1})


def bare(stream: str, expected_version: int = -1, *, count: int = 1) -> Append:
    """Return an item without a projection."""
    return Append(
        stream=stream,
        expected_version=expected_version,
        events=[event(number=number) for number in range(count)],
    )


def thing(
    name: str,
    expected_version: int = 0,
    *,
    count: int = 1,
    amount: int = 1,
    slug: str | None = None,
    made_by: str = "test",
    counters: dict[str, int] | None = None,
) -> Append:
    """Return an item that changes the row of a thing."""
    version = expected_version + count
    return Append(
        stream=f"thing-{name}",
        expected_version=expected_version,
        events=[event(amount=amount, number=number) for number in range(count)],
        projection="things",
        row={
            "id": name,
            "version": version,
            "slug": slug,
            "amount": amount,
            "made_by": made_by,
        },
        counters=counters or {},
    )


def rows(store: EventStore) -> dict[str, dict[str, Any]]:
    """Return the projection's rows by key."""
    with store.connect_reader() as connection:
        names = THINGS.columns
        found = connection.execute(f"SELECT {', '.join(names)} FROM things").fetchall()
        return {row[0]: dict(zip(names, row, strict=True)) for row in found}
