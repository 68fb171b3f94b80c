"""Each item of a batch is stored whole or loses alone; winners are in one commit."""

import pytest

from orchd_eventstore import (
    Append,
    Appended,
    Blob,
    Conflict,
    EventStore,
    InvalidAppend,
    NewEvent,
    Rejected,
)
from orchd_eventstore.store import BLOBS_MAX
from support.eventstores import bare, connected, event, rows, thing


def _positions(store: EventStore) -> list[int]:
    return [each.position for each in store.read_all(limit=10_000)]


def test_events_come_back_as_they_went_in(store: EventStore) -> None:
    data = NewEvent.of(
        "thing.made", {"text": "é\0\u2028 ' % {}", "big": 10**40}, {"schema": 1}
    )
    item = Append(stream="thing-ü%", expected_version=0, events=[data, event(n=2)])
    commit = store.append([item], command_id="c")
    first, second = store.read_stream("thing-ü%")
    assert (first.type, first.data, first.meta) == (data.type, data.data, data.meta)
    assert (first.position, first.version, second.version) == (1, 1, 2)
    assert first.recorded_at == second.recorded_at == commit.recorded_at
    assert commit.outcomes == (Appended(first_position=1, last_position=2, version=2),)
    assert (commit.first_position, commit.last_position, commit.repeated) == (1, 2, False)


def test_positions_follow_the_order_of_the_items(store: EventStore) -> None:
    items = [thing("z", count=2), bare("y"), thing("a"), bare("b", 0)]
    outcomes = store.append(items, command_id="c").outcomes
    spans = [
        (o.first_position, o.last_position) for o in outcomes if isinstance(o, Appended)
    ]
    assert spans == [(1, 2), (3, 3), (4, 4), (5, 5)]
    streams = [each.stream for each in store.read_all()]
    assert streams == ["thing-z", "thing-z", "y", "thing-a", "b"]


def test_a_stream_at_another_version_is_a_conflict(store: EventStore) -> None:
    store.append([bare("s", 0, count=2)], command_id="c1")
    for expected in (0, 1, 3):
        lost = store.append([bare("s", expected)], command_id=f"e{expected}")
        assert lost.outcomes == (Conflict(),)
        assert (lost.first_position, lost.recorded_at) == (None, None)
    won = store.append([bare("s", 2)], command_id="c2")
    assert won.outcomes == (Appended(first_position=3, last_position=3, version=3),)


def test_any_version_goes_to_the_end_of_the_stream(store: EventStore) -> None:
    for number in range(3):
        store.append([bare("s", -1, count=2)], command_id=f"c{number}")
    assert [each.version for each in store.read_stream("s")] == [1, 2, 3, 4, 5, 6]


def test_a_row_is_written_in_the_commit_of_its_events(store: EventStore) -> None:
    store.append([thing("a", amount=5, slug="x", made_by="ann")], command_id="c1")
    store.append([thing("a", 1, amount=7, made_by="bob")], command_id="c2")
    expected = {"id": "a", "version": 2, "slug": None, "amount": 7, "made_by": "ann"}
    assert rows(store) == {"a": expected}, "made_by is immutable, the others are not"


def test_a_row_whose_events_cannot_be_stored_is_not_written(store: EventStore) -> None:
    """The stream has events already, of which its row knows nothing."""
    store.append([bare("thing-a")], command_id="c1")
    commit = store.append([thing("a"), thing("b")], command_id="c2")
    assert list(rows(store)) == ["b"], "there is a row without its event"
    assert isinstance(commit.outcomes[0], Rejected)


def test_a_row_at_another_version_is_a_conflict(store: EventStore) -> None:
    store.append([thing("a", amount=5)], command_id="c1")
    for expected in (0, 2, 7):
        lost = store.append([thing("a", expected, amount=9)], command_id=f"e{expected}")
        assert lost.outcomes == (Conflict(),)
    assert rows(store)["a"]["amount"] == 5
    assert len(store.read_all()) == 1


def test_a_new_row_whose_unique_value_is_taken_is_a_conflict(store: EventStore) -> None:
    store.append([thing("a", slug="x")], command_id="c1")
    items = [thing("b", slug="x"), thing("c", slug="y"), thing("d", slug="y")]
    outcomes = store.append(items, command_id="c2").outcomes
    assert [isinstance(outcome, Appended) for outcome in outcomes] == [False, True, False]
    assert set(rows(store)) == {"a", "c"}


def test_losers_do_not_hold_the_winners_up(store: EventStore) -> None:
    store.append([thing("b"), bare("y", 0)], command_id="c1")
    items = [thing("a"), thing("b"), bare("x", 0), bare("y", 0), thing("b2"), bare("z")]
    commit = store.append(items, command_id="c2")
    won = [isinstance(outcome, Appended) for outcome in commit.outcomes]
    assert won == [True, False, True, False, True, True]
    assert _positions(store) == [1, 2, 3, 4, 5, 6]
    assert (commit.first_position, commit.last_position) == (3, 6)


def test_counters_count_winners_only(store: EventStore) -> None:
    store.append([thing("a", counters={"made": 1, "rest": 2})], command_id="c1")
    items = [
        thing("a", counters={"made": 100}),
        thing("b", counters={"made": 1, "rest": -5, "none": 0}),
        thing("c", counters={"made": 1}),
    ]
    store.append(items, command_id="c2")
    counters = store.counters()
    assert {name: value for name, value in counters.items() if value} == {
        "made": 3,
        "rest": -3,
    }


def test_a_blob_is_stored_once_and_may_be_erased(store: EventStore, store_url: str) -> None:
    body = Blob.of(b"\0binary\xff" * 10_000)
    store.append([bare("a")], command_id="c1", blobs=[body])
    store.append([bare("a")], command_id="c2", blobs=[body, Blob.of(b"")])
    assert store.blob(body.hash) == body.body
    assert store.blob(Blob.of(b"").hash) == b""
    with connected(store_url) as connection:
        connection.exec_driver_sql(f"DELETE FROM blobs WHERE hash = '{body.hash}'")
    assert store.blob(body.hash) is None
    assert store.verify().ok, "erasing a body leaves the chain standing"


def test_many_blobs_are_read_at_once(store: EventStore) -> None:
    bodies = [Blob.of(b"%d" % number) for number in range(2 * BLOBS_MAX + 1)]
    store.append([bare("a")], command_id="c", blobs=bodies)
    names = {body.hash for body in bodies}
    assert store.blobs(names | {"0"}) == {body.hash: body.body for body in bodies}
    assert store.blobs(()) == {}


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(thing("bad", amount=-1), id="check"),
        pytest.param(thing("bad", amount=2**63), id="integer"),
        pytest.param(thing("bad", amount=2**70), id="huge-integer"),
        pytest.param(thing("bad", slug="\ud800"), id="surrogate"),
        pytest.param(thing("bad", slug="a\0b"), id="nul"),
        pytest.param(bare("s-\0"), id="nul-in-stream"),
        pytest.param(bare("s-\udfff"), id="surrogate-in-stream"),
        pytest.param(thing("a0", 1, amount=-1), id="check-of-update"),
        pytest.param(thing("a0", 1, slug="taken"), id="unique-of-update"),
    ],
)
def test_one_bad_item_is_rejected_alone(store: EventStore, bad: Append) -> None:
    """Whatever the database cannot store, the other 499 items are stored."""
    store.append([thing("a0"), thing("t", slug="taken")], command_id="before")
    good = [thing(f"n{number}", counters={"good": 1}) for number in range(499)]
    commit = store.append([*good[:250], bad, *good[250:]], command_id="batch")
    rejected = commit.outcomes[250]
    assert isinstance(rejected, Rejected)
    assert rejected.reason
    assert sum(isinstance(outcome, Appended) for outcome in commit.outcomes) == 499
    assert len(rows(store)) == 501
    assert _positions(store) == list(range(1, 502))
    assert store.counters()["good"] == 499
    assert store.verify().ok


def test_a_name_too_long_for_an_index_is_rejected_alone(store: EventStore) -> None:
    """PostgreSQL indexes no text of many kilobytes; SQLite does."""
    long = "".join(chr(0x4E00 + (number * 7919) % 20_000) for number in range(10_000))
    commit = store.append([thing("a"), bare(long), thing("b")], command_id="c")
    assert isinstance(commit.outcomes[0], Appended)
    assert isinstance(commit.outcomes[1], Appended | Rejected)
    assert isinstance(commit.outcomes[2], Appended)


@pytest.mark.parametrize(
    "items",
    [
        pytest.param([bare("s"), bare("s")], id="twice"),
        pytest.param([Append(stream="s", expected_version=0, events=[])], id="empty"),
        pytest.param([bare("s", -2)], id="version"),
        pytest.param(
            [
                Append(
                    stream="s",
                    expected_version=0,
                    events=[event()],
                    projection="nothing",
                    row={"version": 1},
                )
            ],
            id="projection",
        ),
        pytest.param(
            [Append(stream="s", expected_version=0, events=[event()], projection="things")],
            id="no-row",
        ),
        pytest.param(
            [
                Append(
                    stream="s",
                    expected_version=0,
                    events=[event()],
                    projection="things",
                    row={"id": "a", "version": 2},
                )
            ],
            id="row-version",
        ),
        pytest.param(
            [
                Append(
                    stream="s",
                    expected_version=0,
                    events=[event()],
                    projection="things",
                    row={"id": "a", "version": 1},
                )
            ],
            id="row-columns",
        ),
    ],
)
def test_a_batch_that_breaks_the_contract_is_refused(
    store: EventStore, items: list[Append]
) -> None:
    with pytest.raises(InvalidAppend):
        store.append(items, command_id="c")
    assert store.head().position == 0
    store.append([thing("a")], command_id="c")


def test_a_session_reads_and_appends(store: EventStore) -> None:
    store.append([thing("a", amount=4)], command_id="c1")
    with store.session() as session:
        query = f"SELECT amount, version FROM things WHERE id = {store.placeholder}"
        [[(amount, version)]] = session.execute_all([(query, ("a",))])
        item = thing("a", version, amount=amount + 1)
        commit = session.append([item, bare("x")], command_id="c2")
    assert [isinstance(outcome, Appended) for outcome in commit.outcomes] == [True, True]
    assert rows(store)["a"]["amount"] == 5


def test_a_transaction_that_is_left_changes_nothing(store: EventStore) -> None:
    store.append([thing("a")], command_id="c1")

    def change_and_fail() -> None:
        with store.transaction() as tx:
            tx.execute("UPDATE things SET amount = 99")
            raise KeyError("the user's own")

    with pytest.raises(KeyError):
        change_and_fail()
    with store.transaction() as tx:
        tx.execute("UPDATE things SET amount = 98")
    assert rows(store)["a"]["amount"] == 1


def test_a_transaction_commits_what_the_log_does_not_say(store: EventStore) -> None:
    store.append([thing("a")], command_id="c1")
    with store.transaction() as tx:
        tx.execute("UPDATE things SET amount = 99")
        tx.commit()
    assert rows(store)["a"]["amount"] == 99
