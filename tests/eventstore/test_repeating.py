"""A command is carried out once, however often and wherever it is repeated."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from orchd_eventstore import (
    ANY_VERSION,
    Append,
    Appended,
    Commit,
    Conflict,
    EventStore,
    OutcomeUnknown,
    Rejected,
    StoreUnavailable,
    postgres_patience,
)
from support.eventstores import (
    bare,
    connected,
    event,
    open_store,
    thing,
    waiting_backends,
)
from support.postgres_proxy import PostgresProxy

ITEMS = [
    thing("a", counters={"made": 1}),
    thing("taken"),
    bare("s", count=2),
    thing("b", counters={"made": 1}),
]


def _prepared(store: EventStore) -> EventStore:
    store.append([thing("taken")], command_id="before")
    return store


def _require_stored_once(store: EventStore) -> None:
    assert [each.stream for each in store.read_all()] == [
        "thing-taken",
        "thing-a",
        "s",
        "s",
        "thing-b",
    ]
    assert store.counters()["made"] == 2
    assert store.verify().ok


def _in_thread(function: Callable[[], Commit]) -> Future[Commit]:
    executor = ThreadPoolExecutor(1)
    future = executor.submit(function)
    executor.shutdown(wait=False)
    return future


def test_a_repeated_command_is_answered_from_the_log(store: EventStore) -> None:
    first = _prepared(store).append(ITEMS, command_id="c")
    again = store.append(ITEMS, command_id="c")
    assert (first.repeated, again.repeated) == (False, True)
    assert again.outcomes == first.outcomes
    assert again.outcomes[1] == Conflict()
    assert (again.first_position, again.last_position) == (2, 5)
    assert again.recorded_at == first.recorded_at
    _require_stored_once(store)


def test_a_command_is_known_to_the_next_process(store: EventStore, store_url: str) -> None:
    _prepared(store).append(ITEMS, command_id="c")
    store.close()
    later = open_store(store_url)
    assert later.append(ITEMS, command_id="c").repeated
    _require_stored_once(later)
    later.close()


def test_a_command_of_bare_items_is_repeated_too(store: EventStore) -> None:
    for expected in (-1, 0):
        item = bare(f"s{expected}", expected)
        first = store.append([item], command_id=f"c{expected}")
        again = store.append([item], command_id=f"c{expected}")
        assert again.repeated
        assert again.outcomes == first.outcomes


def test_a_repeat_in_a_session_is_answered_from_the_log(store: EventStore) -> None:
    """Whatever the session offers this time: what was stored counts."""
    _prepared(store).append(ITEMS, command_id="c")
    with store.session() as session:
        session.execute_all([("SELECT 1", ())])
        again = session.append([*ITEMS, thing("new")], command_id="c")
    assert again.repeated
    assert again.outcomes[4] == Conflict()
    _require_stored_once(store)


def test_a_commit_is_read_by_its_command(store: EventStore) -> None:
    _prepared(store).append(ITEMS, command_id="c")
    found = store.read_commit("c")
    assert found is not None
    assert [each.position for each in found] == [2, 3, 4, 5]
    assert store.read_commit("c2") is None


def test_a_command_that_won_nothing_is_not_in_the_log(store: EventStore) -> None:
    _prepared(store)
    lost = store.append([thing("taken")], command_id="c")
    assert lost.outcomes == (Conflict(),)
    assert not lost.repeated
    assert store.read_commit("c") is None
    assert store.head().position == 1


def test_a_batch_that_was_split_is_repeated_whole(store: EventStore) -> None:
    items = [thing("a"), thing("bad", amount=-1), thing("b"), bare("s")]
    first = store.append(items, command_id="c")
    again = store.append(items, command_id="c")
    assert again.repeated
    assert again.outcomes == first.outcomes
    assert isinstance(again.outcomes[1], Rejected)
    assert len(store.read_all()) == 3


def test_a_batch_that_was_split_is_read_by_its_command(store: EventStore) -> None:
    items = [thing("a"), thing("bad", amount=-1), thing("b"), bare("s")]
    store.append(items, command_id="c")
    store.append([thing("z")], command_id="c0")
    found = store.read_commit("c")
    assert found is not None
    assert [each.stream for each in found] == ["thing-a", "thing-b", "s"]


def test_a_repeat_waits_for_a_twin_before_its_commit(
    proxied_store: EventStore, postgres_store: EventStore, postgres_store_url: str
) -> None:
    """The twin has changed its rows and waits for the head, and so does the repeat."""
    _prepared(postgres_store)
    with connected(postgres_store_url) as holder:
        holder.exec_driver_sql("SELECT 1 FROM log_head FOR UPDATE")
        twin = _in_thread(lambda: proxied_store.append(ITEMS, command_id="c"))
        waiting_backends(postgres_store_url, 1)
        again = _in_thread(lambda: postgres_store.append(ITEMS, command_id="c"))
        with pytest.raises(TimeoutError):
            again.result(0.5)
    assert not twin.result(10).repeated
    assert again.result(10).repeated
    assert again.result(10).outcomes == twin.result(10).outcomes
    _require_stored_once(postgres_store)


def test_a_repeat_takes_the_place_of_a_twin_that_died(
    proxied_store: EventStore, postgres_store: EventStore, postgres_store_url: str
) -> None:
    """The twin dies between its row changes and its commit: nothing of it stays."""
    _prepared(postgres_store)
    with connected(postgres_store_url) as holder:
        holder.exec_driver_sql("SELECT 1 FROM log_head FOR UPDATE")
        twin = _in_thread(lambda: proxied_store.append(ITEMS, command_id="c"))
        [pid] = waiting_backends(postgres_store_url, 1)
        again = _in_thread(lambda: postgres_store.append(ITEMS, command_id="c"))
        waiting_backends(postgres_store_url, 2)
        holder.exec_driver_sql(f"SELECT pg_terminate_backend({pid})")
        with pytest.raises(StoreUnavailable):
            twin.result(10)
    assert not again.result(10).repeated
    assert proxied_store.append(ITEMS, command_id="c").repeated
    _require_stored_once(postgres_store)


def test_a_connection_cut_after_commit_leaves_the_outcome_unknown_until_repeated(
    proxied_store: EventStore, postgres_store: EventStore, proxy: PostgresProxy
) -> None:
    _prepared(proxied_store)
    proxy.cut_after(b"eventstore_append")
    with pytest.raises(OutcomeUnknown):
        proxied_store.append(ITEMS, command_id="c")
    again = proxied_store.append(ITEMS, command_id="c")
    assert [isinstance(each, Appended) for each in again.outcomes] == [
        True,
        False,
        True,
        True,
    ]
    _require_stored_once(postgres_store)


def test_a_connection_lost_before_the_append_stored_nothing(
    proxied_store: EventStore, proxy: PostgresProxy
) -> None:
    _prepared(proxied_store)

    def lose() -> None:
        with proxied_store.session() as session:
            session.execute_all([("SELECT 1", ())])
            proxy.cut_all()
            session.execute_all([("SELECT 1", ())])

    with pytest.raises(StoreUnavailable) as caught:
        lose()
    assert not isinstance(caught.value, OutcomeUnknown)
    assert not proxied_store.append(ITEMS, command_id="c").repeated


def test_many_offer_the_same_commands_at_once(
    postgres_store: EventStore, postgres_store_url: str
) -> None:
    """Four stores race through the same commands; each is carried out by exactly one."""
    stores = [open_store(postgres_store_url) for _ in range(4)]
    start = threading.Barrier(4)

    def work(store: EventStore) -> list[Commit]:
        start.wait()
        return [
            store.append([thing(f"n{n}"), bare(f"s{n}")], command_id=f"c{n}")
            for n in range(40)
        ]

    with ThreadPoolExecutor(4) as executor:
        answers = list(executor.map(work, stores))
    for commits in zip(*answers, strict=True):
        assert sorted(commit.repeated for commit in commits) == [False, True, True, True]
        assert len({commit.outcomes for commit in commits}) == 1
    assert postgres_store.head().position == 80
    assert postgres_store.verify().ok
    for store in stores:
        store.close()


def test_a_connection_that_goes_silent_is_given_up_and_the_outcome_is_unknown(
    proxied_store: EventStore,
    postgres_store: EventStore,
    proxy: PostgresProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody on the way takes every byte and passes none on; new connections work."""
    monkeypatch.setattr(postgres_patience, "SILENCE_SECONDS", 0.5)
    _prepared(proxied_store)
    proxied_store.read_all()
    proxy.strand()
    with pytest.raises(OutcomeUnknown):
        proxied_store.append(ITEMS, command_id="c")
    with pytest.raises(StoreUnavailable):
        proxied_store.read_all()
    assert not proxied_store.append(ITEMS, command_id="c").repeated
    _require_stored_once(postgres_store)


def test_a_large_batch_into_a_silent_connection_is_given_up(
    proxied_store: EventStore, proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_patience, "SILENCE_SECONDS", 0.5)
    _prepared(proxied_store)
    proxy.strand()
    text = "x" * 40_000_000
    large = Append(stream="s", expected_version=ANY_VERSION, events=[event(text=text)])
    with pytest.raises(OutcomeUnknown):
        proxied_store.append([large], command_id="large")
