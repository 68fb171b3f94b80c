"""The larger batches of one process take turns in PostgreSQL, and small ones do not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from orchd_eventstore import Append, Appended, Commit, EventStore, EventStoreError, Rejected
from orchd_eventstore import postgres as module
from orchd_eventstore.postgres import TURN_CLASS, TURN_ITEMS_MIN, PostgresBackend
from support.eventstores import open_store, thing
from support.waiting import wait_until

_WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND wait_event = 'advisory'"
)


def items(prefix: str, count: int) -> list[Append]:
    return [thing(f"{prefix}{number}") for number in range(count)]


@contextmanager
def turn_taken(store: EventStore, url: str) -> Iterator[psycopg.Connection[Any]]:
    """Have the turn as another batch of the same process would."""
    backend = store._backend
    assert isinstance(backend, PostgresBackend)
    store.append(items("first", 1), command_id="first")
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s, %s)", (TURN_CLASS, backend._turn))
        yield other


@pytest.fixture
def impatient(
    postgres_store_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[EventStore]:
    """A store that does not wait long for any lock."""
    monkeypatch.setitem(module.SESSION, "lock_timeout", "200ms")
    opened = open_store(postgres_store_url)
    yield opened
    opened.close()


def test_a_large_batch_waits_for_the_one_before_it(
    postgres_store: EventStore, postgres_store_url: str
) -> None:
    commits: list[Commit] = []

    def append() -> None:
        batch = items("late", TURN_ITEMS_MIN)
        commits.append(postgres_store.append(batch, command_id="late"))

    with turn_taken(postgres_store, postgres_store_url) as other:
        thread = threading.Thread(target=append)
        thread.start()
        wait_until(lambda: other.execute(_WAITING).fetchone() == (1,))
        assert not commits
        early = postgres_store.append(items("early", 1), command_id="early")
    thread.join(10)
    assert all(isinstance(outcome, Appended) for outcome in commits[0].outcomes)
    assert early.last_position is not None
    assert commits[0].first_position == early.last_position + 1


def test_a_batch_whose_turn_does_not_come_is_appended_without_one(
    postgres_store_url: str, impatient: EventStore
) -> None:
    batch = items("a", TURN_ITEMS_MIN)
    with turn_taken(impatient, postgres_store_url):
        commit = impatient.append(batch, command_id="without")
    assert not commit.repeated
    assert impatient.head().position == 1 + TURN_ITEMS_MIN


@pytest.mark.parametrize("before", range(9))
def test_a_connection_survives_a_turn_that_does_not_come(
    postgres_store_url: str, impatient: EventStore, before: int
) -> None:
    """Whatever the driver was about to prepare in that moment."""
    with turn_taken(impatient, postgres_store_url) as other:
        other.execute("SELECT pg_advisory_unlock_all()")
        for number in range(before):
            name = f"before{number}-"
            impatient.append(items(name, TURN_ITEMS_MIN), command_id=name)
    with turn_taken(impatient, postgres_store_url):
        impatient.append(items("late", TURN_ITEMS_MIN), command_id="late")
    for number in range(3):
        impatient.append(items(f"after{number}-", 1), command_id=f"after{number}")
    assert impatient.append(items("large", 40), command_id="large").last_position


def turns_kept(url: str) -> int:
    """Return how many turns somebody has."""
    with psycopg.connect(url) as other:
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        row = other.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def test_no_turn_is_kept_by_a_batch(
    postgres_store: EventStore, postgres_store_url: str
) -> None:
    """Neither when it is stored, nor when a part of it is not, nor when it is repeated."""
    good = items("a", 20)
    postgres_store.append(good, command_id="good")
    bad = [*items("b", 20), thing("bad", amount=-1)]
    outcomes = postgres_store.append(bad, command_id="bad").outcomes
    assert [type(outcome) for outcome in outcomes] == [Appended] * 20 + [Rejected]
    assert postgres_store.append(good, command_id="good").repeated
    assert turns_kept(postgres_store_url) == 0


def test_no_turn_is_kept_by_a_batch_that_cannot_be_sent(
    postgres_store: EventStore, postgres_store_url: str
) -> None:
    """The driver refuses it when the lock is on its way already."""
    outcomes = postgres_store.append(items("a", 20), command_id="a\0b").outcomes
    assert {type(outcome) for outcome in outcomes} == {Rejected}
    assert turns_kept(postgres_store_url) == 0


@pytest.mark.parametrize("before", range(8))
def test_a_read_that_fails_leaves_no_connection_that_fails_for_ever(
    postgres_store: EventStore, before: int
) -> None:
    """Whatever the driver was about to prepare in that moment."""
    good, bad = ("SELECT count(*) FROM things", ()), ("SELECT 1 / %s::int", (0,))
    with postgres_store.session() as session:
        for _ in range(before):
            session.execute_all([good])
        with pytest.raises(EventStoreError, match="division by zero"):
            session.execute_all([bad, good])
        for _ in range(2):
            assert session.execute_all([good]) == [[(0,)]]
