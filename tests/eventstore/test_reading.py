"""Reads give the log in its order, in pages, and never more than was asked."""

import pytest

from orchd_eventstore import (
    Append,
    EventStore,
    NewEvent,
    RecordedEvent,
    StoreUnavailable,
    UnknownEvent,
    Upcasters,
    readable,
)
from orchd_eventstore.chain import GENESIS_HASH
from orchd_eventstore.sqlite import driver
from support.eventstores import THINGS, bare, create_schema, thing


def test_an_empty_log_has_a_head_and_nothing_else(store: EventStore) -> None:
    assert (store.head().position, store.head().hash) == (0, GENESIS_HASH)
    assert store.read_all() == store.read_stream("s") == store.read_backwards() == []
    assert store.read_commit("c") is None
    assert store.blob("0") is None
    assert store.counters() == {}
    assert store.verify().ok


def test_pages_follow_each_other_in_both_directions(store: EventStore) -> None:
    store.append([bare("s", count=4), bare("t", count=3)], command_id="c")
    forwards = store.read_all(limit=3) + store.read_all(after=3, limit=10)
    assert [each.position for each in forwards] == [1, 2, 3, 4, 5, 6, 7]
    assert store.read_all(after=2, up_to=4) == forwards[2:4]
    assert store.read_backwards(limit=2) == [forwards[6], forwards[5]]
    assert store.read_backwards(before=3) == [forwards[1], forwards[0]]


def test_a_stream_is_read_from_a_version_on(store: EventStore) -> None:
    store.append([bare("s", count=5), bare("s2")], command_id="c")
    assert [e.version for e in store.read_stream("s", after_version=2)] == [3, 4, 5]
    assert [e.version for e in store.read_stream("s", after_version=1, limit=2)] == [2, 3]


def test_the_head_is_the_last_commit(store: EventStore) -> None:
    store.append([bare("s")], command_id="c1")
    commit = store.append([bare("s", count=2)], command_id="c2")
    head = store.head()
    assert (head.position, head.recorded_at) == (3, commit.recorded_at)


def test_streams_are_listed_by_prefix_in_pages(store: EventStore) -> None:
    names = ["a-1", "a-10", "a-2", "a%", "a_x", "b-1", "Z"]
    store.append([bare(name, count=2) for name in names], command_id="c")
    assert store.streams("a-") == ["a-1", "a-10", "a-2"]
    assert store.streams("a-", after="a-1", limit=1) == ["a-10"]
    assert store.streams("a%") == ["a%"]
    assert store.streams("") == sorted(names)


def test_a_reader_cannot_write(store: EventStore, store_url: str) -> None:
    """The user's own queries get a connection; on SQLite it refuses to write."""
    with store.connect_reader() as connection:
        query = "SELECT count(*) FROM events"
        assert connection.execute(query).fetchone() == (0,)
        if store_url.startswith("sqlite"):
            query = "INSERT INTO counters (name, value) VALUES ('a', 1)"
            with pytest.raises(driver().OperationalError, match="readonly"):
                connection.execute(query)


def test_a_store_opened_for_reading_refuses_to_append(sqlite_url: str) -> None:
    create_schema(sqlite_url)
    reader = EventStore.open(sqlite_url, [THINGS], read_only=True)
    with pytest.raises(StoreUnavailable, match="reading only"):
        reader.append([thing("a")], command_id="c")
    assert reader.head().position == 0
    reader.close()


def _recorded(kind: str, data: str, meta: str) -> RecordedEvent:
    return RecordedEvent(7, "s", 1, kind, data, meta, 0)


def test_old_events_are_brought_forward_step_by_step() -> None:
    upcasters = Upcasters()
    upcasters.register("named", 1, lambda data: {"first": data["name"]})
    upcasters.register("named", 2, lambda data: {"first": data["first"], "last": None})
    old = _recorded("named", '{"name":"ann"}', '{"actor":"x","schema":1}')
    new = upcasters.apply(old)
    assert new.data == '{"first":"ann","last":null}'
    assert new.meta == '{"actor":"x","schema":3}'
    assert upcasters.apply(new) == new
    assert upcasters.apply(_recorded("other", "{}", "{}")).data == "{}"


def test_a_step_is_registered_once() -> None:
    upcasters = Upcasters()
    upcasters.register("named", 1, lambda data: data)
    with pytest.raises(ValueError, match="already"):
        upcasters.register("named", 1, lambda data: data)


def test_an_unknown_type_stops_the_reader_before_it(store: EventStore) -> None:
    known = NewEvent.of("known", {}, {})
    unknown = NewEvent.of("from.the.future", {}, {})
    item = Append(stream="s", expected_version=0, events=[known, unknown, known])
    store.append([item], command_id="c")
    reading = readable(store.read_all(), known_types={"known"})
    assert next(reading).position == 1
    with pytest.raises(UnknownEvent) as caught:
        next(reading)
    assert (caught.value.position, caught.value.event_type) == (2, "from.the.future")
