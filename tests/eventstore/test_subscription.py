"""A subscriber sees every event once, in order, however it is woken."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import pytest

from orchd_eventstore import EventStore, LogCorrupted, RecordedEvent
from support.eventstores import bare, open_store, unprotected
from support.postgres_proxy import PostgresProxy


async def _collect(batches: AsyncIterator[list[RecordedEvent]], count: int) -> list[int]:
    found: list[int] = []
    async for batch in batches:
        found += [each.position for each in batch]
        if len(found) >= count:
            return found
    return found


async def _append(store: EventStore, command_id: str, count: int = 1) -> None:
    await asyncio.to_thread(store.append, [bare("s", count=count)], command_id=command_id)


async def test_what_is_there_and_what_comes_is_seen_once_in_order(
    store: EventStore,
) -> None:
    await _append(store, "before", 25)
    collecting = asyncio.create_task(_collect(store.subscribe(after=5, batch=7), 60))
    for number in range(20):
        await _append(store, f"c{number}", 2)
    assert await asyncio.wait_for(collecting, 20) == list(range(6, 66))


async def test_batches_are_never_larger_than_asked(store: EventStore) -> None:
    await _append(store, "c", 25)
    batches = store.subscribe(batch=10)
    assert [len(await anext(batches)) for _ in range(3)] == [10, 10, 5]


async def test_a_commit_of_this_process_wakes_at_once(store: EventStore) -> None:
    """Far sooner than the poll, for every one of several commits in a row."""
    batches = store.subscribe()
    await _append(store, "first")
    await anext(batches)
    waits = []
    for number in range(5):
        coming = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        await _append(store, f"c{number}")
        await asyncio.wait_for(coming, 10)
        waits.append(time.monotonic() - began)
    assert sorted(waits)[2] < 0.5, waits


async def test_many_subscribers_do_not_starve_each_other(store: EventStore) -> None:
    """Idle ones cost nothing, so that forty hear as soon as one."""
    subscribers = [asyncio.create_task(_collect(store.subscribe(), 1)) for _ in range(40)]
    await asyncio.sleep(0.3)
    began = time.monotonic()
    await asyncio.wait_for(_append(store, "c"), 10)
    assert await asyncio.wait_for(asyncio.gather(*subscribers), 20) == [[1]] * 40
    assert time.monotonic() - began < 0.9


async def test_a_commit_between_looking_and_waiting_is_not_overlooked(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hint that comes before the wait begins still ends the wait."""
    real = store.read_all
    looked = 0

    def read_all(**options: int) -> list[RecordedEvent]:
        nonlocal looked
        found = real(**options)
        looked += 1
        if looked == 1:
            store.append([bare("s")], command_id="in-between")
        return found

    monkeypatch.setattr(store, "read_all", read_all)
    began = time.monotonic()
    assert await _collect(store.subscribe(), 1) == [1]
    assert time.monotonic() - began < 0.5


def _hints_when_quiet(store: EventStore) -> int:
    """Return how many hints there were, once no more come: PostgreSQL's come later."""
    seen = -1
    while seen != store.hints():
        seen = store.hints()
        store.wait(0.3)
    return seen


def test_only_what_the_log_says_is_news(store: EventStore) -> None:
    """A batch that lost and a change beside the log wake nobody who waits for the log."""
    store.append([bare("s", 0)], command_id="first")
    before = _hints_when_quiet(store)
    store.append([bare("s", 0)], command_id="lost")
    with store.session() as session:
        session.append([bare("s", 0)], command_id="lost in a session")
    with store.transaction() as transaction:
        transaction.execute("UPDATE counters SET value = value")
        transaction.commit()
    assert _hints_when_quiet(store) == before
    with store.session() as session:
        session.append([bare("s", 1)], command_id="won")
    assert store.hints() > before


async def test_a_hole_in_the_log_is_an_alarm(store: EventStore, store_url: str) -> None:
    await _append(store, "c1", 3)
    await _append(store, "c2", 3)
    with unprotected(store_url) as connection:
        connection.exec_driver_sql("DELETE FROM events WHERE position = 4")
    batches = store.subscribe(batch=3)
    assert [each.position for each in await anext(batches)] == [1, 2, 3]
    with pytest.raises(LogCorrupted, match="4 is missing"):
        await anext(batches)


async def test_a_commit_of_another_process_wakes_at_once(
    postgres_store: EventStore, postgres_store_url: str
) -> None:
    other = open_store(postgres_store_url)
    batches = postgres_store.subscribe()
    await _append(other, "first")
    await anext(batches)
    waits = []
    for number in range(5):
        coming = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0.3)
        began = time.monotonic()
        await _append(other, f"c{number}")
        await asyncio.wait_for(coming, 10)
        waits.append(time.monotonic() - began)
    assert sorted(waits)[2] < 0.25, waits
    await asyncio.to_thread(other.close)


async def test_a_subscriber_survives_the_loss_of_its_connections(
    proxied_store: EventStore, postgres_store: EventStore, proxy: PostgresProxy
) -> None:
    collecting = asyncio.create_task(_collect(proxied_store.subscribe(), 6))
    for number in range(6):
        await _append(postgres_store, f"c{number}")
        await asyncio.sleep(0.2)
        proxy.cut_all()
    assert await asyncio.wait_for(collecting, 20) == [1, 2, 3, 4, 5, 6]


def test_who_listens_ends_with_its_store(postgres_store_url: str) -> None:
    """It sleeps until somebody says something, and is not waited for in vain."""
    store = open_store(postgres_store_url)
    before = set(threading.enumerate())
    store.wait(0.1)
    [listener] = set(threading.enumerate()) - before
    store.close()
    assert not listener.is_alive()
