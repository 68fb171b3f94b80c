"""Positions are dense and in commit order, and nobody holds everybody up."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from orchd_eventstore import Appended, Conflict, EventStore, StoreUnavailable
from orchd_eventstore.events import Outcome
from support.eventstores import (
    bare,
    connected,
    create_schema,
    open_store,
    thing,
    waiting_backends,
)
from support.postgres_proxy import PostgresProxy
from support.waiting import wait_until

WRITERS = 8
COMMITS_PER_WRITER = 40


class _Undone(Exception):
    """A writer changes its mind."""


def _write(store: EventStore, writer: int) -> int:
    """Commit, and give up one append in ten; return how many events were stored."""
    choice = random.Random(writer)
    stored = 0
    for number in range(COMMITS_PER_WRITER):
        items = [thing(f"{writer}-{number}", count=choice.randint(1, 3)), bare("shared")]
        if choice.random() < 0.1:
            _give_up(store)
            continue
        with store.session() as session:
            session.execute_all([("SELECT count(*) FROM things", ())])
            commit = session.append(items, command_id=f"{writer}/{number}")
        assert all(isinstance(outcome, Appended) for outcome in commit.outcomes)
        stored += (commit.last_position or 0) - (commit.first_position or 0) + 1
    return stored


def _give_up(store: EventStore) -> None:
    """Take a row's place and the head, as an append does, and roll back."""
    with suppress(_Undone), store.transaction() as tx:
        tx.execute("SELECT position FROM log_head" + _for_update(store))
        tx.execute("DELETE FROM things")
        raise _Undone


def _for_update(store: EventStore) -> str:
    return "" if store.placeholder == "?" else " FOR UPDATE"


def test_a_tailing_reader_loses_nothing_under_eight_writers(
    store: EventStore, store_url: str
) -> None:
    """It remembers only the last position that it saw, while one in ten rolls back."""
    done = threading.Event()
    seen: list[int] = []

    def tail() -> None:
        last_look = False
        while not last_look:
            last_look = done.is_set()
            while found := store.read_all(after=seen[-1] if seen else 0, limit=50):
                seen.extend(each.position for each in found)

    # On SQLite one process writes through one store; on PostgreSQL each has its own.
    shared = store_url.startswith("sqlite")
    stores = [store if shared else open_store(store_url) for _ in range(WRITERS)]
    with ThreadPoolExecutor(WRITERS + 1) as executor:
        tailing = executor.submit(tail)
        try:
            stored = sum(executor.map(_write, stores, range(WRITERS)))
        finally:
            done.set()
        tailing.result(30)
    assert seen == list(range(1, stored + 1))
    versions = [each.version for each in store.read_stream("shared")]
    assert versions == list(range(1, len(versions) + 1))
    assert store.verify().ok
    for each in stores:
        each.close()


def test_recorded_at_never_decreases_when_the_clock_jumps_back(sqlite_url: str) -> None:
    create_schema(sqlite_url)
    instants = iter([1_000_000, 5_000_000, 2_000_000, 2_000_001, 6_000_000])
    store = open_store(sqlite_url, clock=lambda: next(instants))
    for number in range(5):
        store.append([bare("s")], command_id=f"c{number}")
    found = [each.recorded_at for each in store.read_all()]
    assert found == [1_000_000, 5_000_000, 5_000_000, 5_000_000, 6_000_000]
    assert store.verify().ok
    store.close()


def test_recorded_at_never_decreases_below_the_head(
    store: EventStore, store_url: str
) -> None:
    """The head may be ahead of the clock: a clock that was set back, or another server."""
    with connected(store_url) as connection:
        connection.exec_driver_sql(
            "UPDATE log_head SET recorded_at = '2100-01-01T00:00:00.123456Z'"
        )
    commit = store.append([bare("s")], command_id="c")
    assert commit.recorded_at == 4_102_444_800_123_456
    assert store.head().recorded_at == commit.recorded_at
    assert store.verify().ok


def test_recorded_at_is_the_databases_clock(store: EventStore) -> None:
    before = store.now()
    commit = store.append([bare("s")], command_id="c")
    assert commit.recorded_at is not None
    # SQLite's own clock counts milliseconds.
    assert before - 1_000 <= commit.recorded_at <= store.now() + 1_000
    assert abs(before - time.time() * 1_000_000) < 5_000_000


def test_a_frozen_client_holds_up_nobody_else(
    proxied_store: EventStore, postgres_store: EventStore, proxy: PostgresProxy
) -> None:
    """It has read its row and sends its append; others even change the same row."""
    postgres_store.append([thing("frozen"), thing("free")], command_id="before")
    proxy.hold(b"eventstore_append")
    with ThreadPoolExecutor(1) as executor:
        frozen = executor.submit(_read_and_change, proxied_store)
        assert proxy.held.wait(10)
        for number in range(1, 6):
            began = time.monotonic()
            items = [thing("free", number), thing("frozen", number), bare("s")]
            postgres_store.append(items, command_id=f"c{number}")
            assert time.monotonic() - began < 1
        proxy.release()
        assert frozen.result(10) == Conflict()
    assert postgres_store.verify().ok


def _read_and_change(store: EventStore) -> Outcome:
    with store.session() as session:
        session.execute_all([("SELECT 1 FROM things WHERE id = 'frozen'", ())])
        return session.append([thing("frozen", 1)], command_id="frozen").outcomes[0]


def test_a_client_that_never_ends_its_batch_holds_up_nobody_else(
    proxied_store: EventStore, postgres_store: EventStore, proxy: PostgresProxy
) -> None:
    """The server has got its append, and not the Sync that usually commits it."""
    postgres_store.append([thing("frozen"), thing("free")], command_id="before")
    proxy.hold_sync_after(b"eventstore_append")
    with ThreadPoolExecutor(1) as executor:
        frozen = executor.submit(_read_and_change, proxied_store)
        assert proxy.held.wait(10)
        for number in range(1, 6):
            began = time.monotonic()
            postgres_store.append([thing("free", number)], command_id=f"c{number}")
            assert time.monotonic() - began < 1
        proxy.release()
        assert isinstance(frozen.result(10), Appended)
    assert postgres_store.verify().ok


def test_who_waits_for_a_lock_too_long_is_told_to_try_again(
    postgres_store: EventStore, postgres_store_url: str
) -> None:
    postgres_store.append([thing("a")], command_id="before")
    with connected(postgres_store_url) as connection:
        connection.exec_driver_sql("SELECT 1 FROM things WHERE id = 'a' FOR UPDATE")
        with pytest.raises(StoreUnavailable):
            postgres_store.append([thing("a", 1)], command_id="c")
    assert not postgres_store.append([thing("a", 1)], command_id="c").repeated


def test_crossing_batches_do_not_deadlock(
    postgres_store: EventStore, postgres_store_url: str
) -> None:
    """Rows are locked by key, whatever the order of the items."""
    names = [f"n{number:02}" for number in range(30)]
    postgres_store.append([thing(name) for name in names], command_id="before")
    stores = [open_store(postgres_store_url) for _ in range(4)]

    def work(number: int) -> int:
        choice = random.Random(number)
        won = 0
        for turn in range(30):
            versions = {
                each.stream.removeprefix("thing-"): each.version
                for each in stores[number].read_all(limit=100_000)
                if each.stream.startswith("thing-")
            }
            items = [thing(name, versions[name]) for name in choice.sample(names, 20)]
            commit = stores[number].append(items, command_id=f"{number}/{turn}")
            won += sum(isinstance(outcome, Appended) for outcome in commit.outcomes)
        return won

    with ThreadPoolExecutor(4) as executor:
        won = sum(executor.map(work, range(4)))
    assert postgres_store.head().position == 30 + won
    assert postgres_store.verify().ok
    for store in stores:
        store.close()


def test_batches_that_cross_wait_for_each_other_in_one_order(
    postgres_store: EventStore, postgres_store_url: str
) -> None:
    """Both wait for a row in the middle, and neither holds what the other takes next."""
    postgres_store.append([thing(name) for name in "abz"], command_id="before")
    stores = [postgres_store, open_store(postgres_store_url)]
    with ThreadPoolExecutor(2) as executor:
        with connected(postgres_store_url) as holder:
            holder.exec_driver_sql("SELECT 1 FROM things WHERE id = 'z' FOR UPDATE")
            futures = []
            for number, names in enumerate(("azb", "bza")):
                items = [thing(name, 1) for name in names]
                futures.append(
                    executor.submit(stores[number].append, items, command_id=names)
                )
                waiting_backends(postgres_store_url, number + 1)
        for future in futures:
            error = future.exception(10)
            assert error is None, f"two batches locked each other out: {error}"
    assert sum(isinstance(o, Appended) for f in futures for o in f.result().outcomes) == 3
    assert postgres_store.verify().ok
    stores[1].close()


def test_an_append_is_one_round_trip(
    proxied_store: EventStore, proxy: PostgresProxy
) -> None:
    for number in range(8):  # the driver prepares a statement that it has seen often
        proxied_store.append([bare("warm")], command_id=f"warm{number}")
    before = proxy.round_trips
    proxied_store.append([thing(f"n{n}") for n in range(15)], command_id="c")
    assert proxy.round_trips - before == 1


def test_a_large_append_with_its_turn_is_sent_in_one_piece(
    proxied_store: EventStore, proxy: PostgresProxy
) -> None:
    proxied_store.append([bare("warm")], command_id="warm")
    batch = [thing(f"n{n}") for n in range(100)]
    before = proxy.round_trips
    proxy.hold_answers()
    thread = threading.Thread(target=lambda: proxied_store.append(batch, command_id="c"))
    thread.start()
    try:
        # The lock, the append and the end of the lock.
        wait_until(lambda: proxy.round_trips - before == 3)
    finally:
        proxy.release()
    thread.join(10)
    assert proxy.round_trips - before == 3
    assert proxied_store.head().position == 101


def test_a_session_with_one_read_is_two_round_trips(
    proxied_store: EventStore, proxy: PostgresProxy
) -> None:
    for number in range(8):
        _read_and_append(proxied_store, f"warm{number}")
    before = proxy.round_trips
    _read_and_append(proxied_store, "c")
    assert proxy.round_trips - before == 2


def _read_and_append(store: EventStore, name: str) -> None:
    with store.session() as session:
        session.execute_all([("SELECT count(*) FROM things", ())])
        session.append([thing(name), bare("s")], command_id=name)


def test_updates_never_scan_a_table_that_has_grown(postgres_store: EventStore) -> None:
    """A plan that was made for an empty table must not be kept for a large one."""
    postgres_store.append([thing(f"{n:06}") for n in range(10)], command_id="first")
    for version in range(1, 8):
        items = [thing(f"{number:06}", version) for number in range(10)]
        postgres_store.append(items, command_id=f"small-{version}")
    for page in range(1, 6):
        items = [thing(f"{page * 1000 + n:06}") for n in range(1000)]
        postgres_store.append(items, command_id=f"page{page}")
    before = rows_scanned(postgres_store)
    postgres_store.append([thing("003000", 1)], command_id="late")
    assert rows_scanned(postgres_store) == before


def rows_scanned(store: EventStore) -> int:
    """Return how many rows sequential scans of the projection's table have read."""
    with store.transaction() as transaction:
        # What this session has counted is reported at once instead of some time later.
        transaction.execute("SELECT pg_stat_force_next_flush()")
        transaction.commit()
    with store.connect_reader() as connection:
        query = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'things'"
        return int(connection.execute(query).fetchone()[0])
