"""Connections for reading are lent, come back clean, and are replaced when they break."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
import pytest

from orchd_eventstore import EventStore, StoreUnavailable, pool
from orchd_eventstore.pool import Pool
from support.postgres_proxy import PostgresProxy


class Connection:
    """Notes whether it was closed; cannot be settled once it is broken."""

    def __init__(self) -> None:
        self.closed = False
        self.broken = False

    def close(self) -> None:
        self.closed = True


def settle(connection: Connection) -> None:
    if connection.broken:
        raise OSError("broken")


@pytest.fixture
def made() -> list[Connection]:
    """The connections that the pool has made."""
    return []


@pytest.fixture
def lender(made: list[Connection]) -> Iterator[Pool]:
    def connect() -> Connection:
        made.append(Connection())
        return made[-1]

    lender = Pool(connect, settle, kept=2, most=3)
    yield lender
    lender.close()
    assert all(connection.closed for connection in made)


def lend_all(lender: Pool, count: int = 3) -> list[Connection]:
    with ExitStack() as stack:
        return [stack.enter_context(lender.lend()) for _ in range(count)]


def test_what_came_back_last_is_lent_first(lender: Pool, made: list[Connection]) -> None:
    first, _, _ = lend_all(lender)
    # They come back in reverse, and two are kept.
    assert [connection.closed for connection in made] == [True, False, False]
    with lender.lend() as again:
        assert again is made[1]
    assert first.closed
    assert len(made) == 3


def test_whoever_needs_one_more_waits_for_it(
    lender: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(lender.lend())
        monkeypatch.setattr(pool, "WAIT_SECONDS", 0.01)
        with pytest.raises(StoreUnavailable, match="all 3 connections for reading"):
            stack.enter_context(lender.lend())
        monkeypatch.setattr(pool, "WAIT_SECONDS", 30)
        got = threading.Event()

        def wait() -> None:
            with lender.lend():
                got.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not got.wait(0.05)
        stack.close()
        assert got.wait(10)
        waiting.join()


def test_a_broken_one_takes_those_that_lie_idle_with_it(
    lender: Pool, made: list[Connection]
) -> None:
    lend_all(lender, 2)
    with lender.lend() as connection:
        connection.broken = True
    assert [connection.closed for connection in made] == [True, True]
    lend_all(lender)
    assert len(made) == 5


def test_a_failed_connection_keeps_no_place(lender: Pool) -> None:
    def refuse() -> Connection:
        raise OSError("refused")

    lender._connect, connect = refuse, lender._connect
    for _ in range(4):
        with pytest.raises(OSError, match="refused"), lender.lend():
            pass
    lender._connect = connect
    assert len(lend_all(lender)) == 3


def test_what_was_lent_before_the_pool_was_closed_is_not_kept(
    lender: Pool, made: list[Connection]
) -> None:
    with lender.lend() as connection:
        lender.close()
        assert not connection.closed
    assert connection.closed
    with lender.lend():
        assert len(made) == 2


def test_a_transaction_that_a_borrower_left_open_is_rolled_back(store: EventStore) -> None:
    with store.connect_reader() as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM events").fetchall()
    with store.connect_reader() as again:
        assert again is connection
        again.execute("BEGIN")


def test_a_session_that_the_server_ended_is_replaced(postgres_store: EventStore) -> None:
    with postgres_store.connect_reader() as connection:
        connection.execute("SELECT 1")
        pid = connection.info.backend_pid
    with postgres_store.transaction() as transaction:
        transaction.execute("SELECT pg_terminate_backend(%s)", (pid,))
        transaction.commit()
    with pytest.raises(StoreUnavailable):
        postgres_store.head()
    assert postgres_store.head().position == 0


def test_a_statement_that_failed_leaves_its_connection_usable(store: EventStore) -> None:
    for _ in range(20):
        with pytest.raises(Exception, match="nothing_like_that"):
            store._rows("SELECT * FROM nothing_like_that")
    assert store.head().position == 0


def test_a_session_holds_to_the_settings_of_the_store(postgres_store_url: str) -> None:
    """What the URL says of options goes with ours, and cannot undo them."""
    said = "-c%20work_mem=7MB%20-c%20synchronous_commit=off"
    separator = "&" if "?" in postgres_store_url else "?"
    store = EventStore.open(f"{postgres_store_url}{separator}options={said}")
    with store.connect_reader() as connection:
        shown = [
            connection.execute(f"SHOW {name}").fetchone()[0]
            for name in ("work_mem", "synchronous_commit", "statement_timeout")
        ]
    store.close()
    assert shown == ["7MB", "on", "30s"]
    assert isinstance(connection, psycopg.Connection)


def test_only_the_session_that_appends_keeps_its_plans(postgres_store: EventStore) -> None:
    query = "SHOW plan_cache_mode"
    with postgres_store.transaction() as transaction:
        assert transaction.execute(query) == [("force_generic_plan",)]
    assert postgres_store._rows(query) == [("auto",)]


def test_idle_writers_do_not_wait_for_a_server_that_is_silent(
    proxied_store: EventStore, proxy: PostgresProxy
) -> None:
    with proxied_store.transaction() as one, proxied_store.transaction() as other:
        assert one.execute("SELECT 1") == other.execute("SELECT 1") == [(1,)]
    proxy.swallow()
    began = time.perf_counter()
    proxied_store.close()
    assert time.perf_counter() - began < 5.0
