"""Data can be erased, the chain still holds, and nothing else can be changed that way."""

from __future__ import annotations

import msgspec
import pytest
import sqlalchemy as sa

from orchd_eventstore import Append, Erasure, EventStore, NewEvent
from orchd_eventstore.chain import data_hash
from orchd_eventstore.erasing import ERASED_KEY, announced, listing
from support.eventstores import event, unprotected

GONE = '{"gone":true}'


def note(stream: str, secret: str, version: int = 0) -> Append:
    return Append(stream=stream, expected_version=version, events=[event(secret=secret)])


@pytest.fixture
def filled(store: EventStore) -> EventStore:
    """Three commits with a secret each: positions 1, 2 and 3, 4."""
    store.append([note("a", "one")], command_id="c1")
    store.append([note("b", "two"), note("c", "three")], command_id="c2")
    store.append([note("d", "four")], command_id="c3")
    return store


def announce(store: EventStore, *positions: int) -> list[Erasure]:
    """Append the event that says what is erased; return what is then to be done."""
    before = {e.position: e.data for e in store.read_all() if e.position in positions}
    told = listing((position, data, GONE) for position, data in before.items())
    eraser = NewEvent.of("erased", {ERASED_KEY: told}, {"schema": 1})
    item = Append(stream="eraser", expected_version=-1, events=[eraser])
    commit = store.append([item], command_id=f"erase-{positions}")
    assert commit.last_position is not None
    return [
        Erasure(
            position=position,
            data_hash=data_hash(data),
            data=GONE,
            erased_by=commit.last_position,
        )
        for position, data in before.items()
    ]


def erase(store: EventStore, erasures: list[Erasure]) -> None:
    with store.transaction() as transaction:
        transaction.erase(erasures)
        transaction.commit()


def datas(store: EventStore) -> list[str]:
    return [event.data for event in store.read_all(limit=4)]


def test_what_was_erased_is_gone_and_the_chain_holds(filled: EventStore) -> None:
    erase(filled, announce(filled, 1, 3))
    assert datas(filled) == [GONE, '{"secret":"two"}', GONE, '{"secret":"four"}']
    assert filled.verify().ok
    assert [one.position for one in filled.erasures(0, 10)] == [1, 3]
    assert filled.erasures(1, 2) == []
    filled.append([note("e", "five")], command_id="c9")
    assert filled.verify().ok


def test_an_erasure_that_is_only_announced_changes_nothing(filled: EventStore) -> None:
    announce(filled, 2)
    assert filled.verify().ok
    assert '{"secret":"two"}' in datas(filled)


def test_erasures_of_several_pages_and_of_one_commit_are_verified(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchd_eventstore.verification.Walk.PAGE_EVENTS", 3)
    store.append([note(f"s{n}", f"secret {n}") for n in range(10)], command_id="c")
    store.append([note("late", "x")], command_id="d")
    erase(store, announce(store, *range(1, 11, 2)))
    assert store.verify().ok


FORGERIES: dict[str, tuple[str, str]] = {
    "other-data": ("UPDATE events SET data = '{\"forged\":1}' WHERE position = 1", "c1"),
    "unannounced": (
        "INSERT INTO erasures (position, data_hash, data, erased_by)"
        " SELECT 4, data_hash, data, erased_by FROM erasures WHERE position = 1",
        "c3",
    ),
    "no-erasure": ("DELETE FROM erasures WHERE position = 1", "c1"),
    "other-hash": ("UPDATE erasures SET data_hash = 'x' WHERE position = 1", "c1"),
    "other-announcement": ("UPDATE erasures SET erased_by = 4 WHERE position = 1", "c1"),
    "later-announcement": ("UPDATE erasures SET erased_by = 99 WHERE position = 1", "c1"),
    "earlier-announcement": ("UPDATE erasures SET erased_by = 1 WHERE position = 1", "c1"),
    "announcement-changed": (
        "UPDATE events SET data = replace(data, '[1,', '[2,') WHERE stream = 'eraser'",
        "c1",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_erasure_is_found_and_its_commit_named(
    filled: EventStore, database_url: str, name: str
) -> None:
    erase(filled, announce(filled, 1))
    statement, command_id = FORGERIES[name]
    with unprotected(database_url) as connection:
        connection.exec_driver_sql(statement)
        if name == "unannounced":
            connection.exec_driver_sql(
                f"UPDATE events SET data = '{GONE}' WHERE position = 4"
            )
    verified = filled.verify()
    assert verified.bad is not None
    assert verified.bad.command_id == command_id


def test_an_announcement_that_was_forged_breaks_the_chain(
    filled: EventStore, database_url: str
) -> None:
    [one] = announce(filled, 1)
    forged = listing([(1, '{"secret":"one"}', '{"secret":"lie"}')])
    with unprotected(database_url) as connection:
        told = NewEvent.of("erased", {ERASED_KEY: forged}, {"schema": 1})
        update = sa.text("UPDATE events SET data = :data WHERE stream = 'eraser'")
        connection.execute(update, {"data": told.data})
    erase(filled, [msgspec.structs.replace(one, data='{"secret":"lie"}')])
    verified = filled.verify()
    assert verified.bad is not None
    assert verified.bad.first_position == 5


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET data = '{}' WHERE position = 1",
        "UPDATE events SET data = data WHERE position = 2",
        f"UPDATE events SET data = '{GONE}', meta = '{{}}' WHERE position = 1",
        f"UPDATE events SET data = '{GONE}', type = 'x' WHERE position = 1",
        f"UPDATE events SET data = '{GONE}', stream = 'x' WHERE position = 1",
        f"UPDATE events SET data = '{GONE}' WHERE position = 2",
        "UPDATE erasures SET data = '{}'",
        "DELETE FROM erasures",
        "DELETE FROM events WHERE position = 1",
    ],
)
def test_the_database_refuses_every_other_change(
    filled: EventStore, statement: str
) -> None:
    erase(filled, announce(filled, 1))
    with filled.transaction() as transaction:
        with pytest.raises(Exception, match="is written once"):
            transaction.execute(statement)


def test_an_event_is_erased_once(filled: EventStore) -> None:
    erasures = announce(filled, 1)
    erase(filled, erasures)
    with pytest.raises(Exception, match=r"(?i)written once|duplicate key"):
        erase(filled, erasures)
    assert filled.verify().ok


def test_commits_of_the_first_rules_cannot_do_without_their_data(
    filled: EventStore, database_url: str
) -> None:
    # As an older release wrote them: their hashes cover the data themselves.
    from orchd_eventstore import schema
    from orchd_eventstore.chain import GENESIS_HASH, commit_hash

    chain = GENESIS_HASH
    with unprotected(database_url) as connection:
        for row in filled.commits():
            events = filled.read_all(
                after=row.last_position - row.events, up_to=row.last_position
            )
            chain = commit_hash(chain, row.command_id, row.recorded_at, events, 1)
            update = (
                sa.update(schema.commits)
                .where(schema.commits.c.last_position == row.last_position)
                .values(hash=chain, rules=1)
            )
            connection.execute(update)
        connection.execute(sa.update(schema.log_head).values(hash=chain))
    assert filled.verify().ok
    erase(filled, announce(filled, 1))
    verified = filled.verify()
    assert verified.bad is not None
    assert verified.bad.command_id == "c1"


@pytest.mark.parametrize(
    "data", ["{}", "[]", "nonsense", '{"$erased":7}', '{"$erased":[[1,2,3]]}']
)
def test_only_a_well_formed_announcement_counts(data: str) -> None:
    assert announced(data) == []
