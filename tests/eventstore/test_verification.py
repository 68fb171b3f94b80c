"""Any change by hand to the log is found, and its commit is named."""

import msgspec
import pytest
import sqlalchemy as sa

from orchd_eventstore import Append, EventStore, NewEvent, schema
from orchd_eventstore.chain import GENESIS_HASH, commit_hash
from support.eventstores import bare, create_schema, event, open_store, thing, unprotected

LATER = "'2031-01-01T00:00:00.000000Z'"
# The log has three commits: positions 1-2, 3-5 and 6. Each change names its victim.
CHANGES = {
    "position": ("UPDATE events SET position = 99 WHERE position = 4", "c2"),
    "position-swap": (
        "UPDATE events SET data = (SELECT data FROM events AS o WHERE"
        " o.position = 9 - events.position) WHERE position IN (4, 5)",
        "c2",
    ),
    "stream": ("UPDATE events SET stream = 'x' WHERE position = 4", "c2"),
    "version": ("UPDATE events SET version = 77 WHERE position = 4", "c2"),
    "type": ("UPDATE events SET type = 'x' WHERE position = 1", "c1"),
    "data": ("UPDATE events SET data = '{}' WHERE position = 6", "c3"),
    "meta": ("UPDATE events SET meta = '{}' WHERE position = 3", "c2"),
    "recorded_at": (f"UPDATE events SET recorded_at = {LATER} WHERE position = 5", "c2"),
    "deleted-event": ("DELETE FROM events WHERE position = 4", "c2"),
    "deleted-last-event": ("DELETE FROM events WHERE position = 6", "c3"),
    "deleted-commit": ("DELETE FROM commits WHERE command_id = 'c2'", "c3"),
    "deleted-first-commit": ("DELETE FROM commits WHERE command_id = 'c1'", "c2"),
    "deleted-last-commit": ("DELETE FROM commits WHERE command_id = 'c3'", ""),
    "commit-position": ("UPDATE commits SET last_position = 7 WHERE last_position = 6", ""),
    "commit-id": ("UPDATE commits SET command_id = 'x' WHERE command_id = 'c2'", "x"),
    "commit-events": ("UPDATE commits SET events = 2 WHERE command_id = 'c2'", "c2"),
    "commit-time": (
        f"UPDATE commits SET recorded_at = {LATER} WHERE command_id = 'c2'",
        "c2",
    ),
    "commit-hash": ("UPDATE commits SET hash = 'x' WHERE command_id = 'c2'", "c2"),
    "head-position": ("UPDATE log_head SET position = 5", ""),
    "head-position-up": ("UPDATE log_head SET position = 8", ""),
    "head-hash": ("UPDATE log_head SET hash = 'x'", ""),
    "head-time": (f"UPDATE log_head SET recorded_at = {LATER}", ""),
    "inserted-after": (
        f"INSERT INTO events VALUES (7, 'x', 1, 't', '{{}}', '{{}}', {LATER})",
        "",
    ),
    "inserted-far-after": (
        f"INSERT INTO events VALUES (1000, 'x', 1, 't', '{{}}', '{{}}', {LATER})",
        "",
    ),
    "inserted-before": (
        f"INSERT INTO events VALUES (0, 'x', 1, 't', '{{}}', '{{}}', {LATER})",
        "",
    ),
    "inserted-commit-before": (
        f"INSERT INTO commits VALUES (-5, 'x', 1, {LATER}, 'x', 2)",
        "",
    ),
    "inserted-commit-after": (
        f"INSERT INTO commits VALUES (9, 'x', 1, {LATER}, 'x', 2)",
        "",
    ),
    "commit-rules": ("UPDATE commits SET rules = 1 WHERE command_id = 'c2'", "c2"),
    "commit-unknown-rules": ("UPDATE commits SET rules = 9 WHERE command_id = 'c2'", "c2"),
}


@pytest.fixture
def filled(store: EventStore) -> EventStore:
    store.append([thing("a", count=2)], command_id="c1")
    store.append([thing("a", 2), bare("s", count=2)], command_id="c2")
    store.append([thing("b")], command_id="c3")
    return store


def test_an_untouched_log_is_in_order(filled: EventStore) -> None:
    seen: list[tuple[int, int]] = []
    found = filled.verify(lambda done, of: seen.append((done, of)))
    assert (found.ok, found.commits, found.events, found.bad) == (True, 3, 6, None)
    assert seen[-1] == (6, 6)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_by_hand_is_found(filled: EventStore, store_url: str, change: str) -> None:
    statement, command_id = CHANGES[change]
    with unprotected(store_url) as connection:
        assert connection.exec_driver_sql(statement).rowcount >= 1
    found = filled.verify()
    assert not found.ok
    assert found.bad is not None
    assert found.bad.why
    if command_id:
        assert found.bad.command_id == command_id


def test_two_commits_that_change_places_are_found(
    filled: EventStore, store_url: str
) -> None:
    """The hashes would still be those of real commits, but of other places."""
    with unprotected(store_url) as connection:
        found = connection.exec_driver_sql("SELECT command_id, hash FROM commits")
        hashes = {command_id: digest for command_id, digest in found}
        change = sa.text("UPDATE commits SET hash = :hash WHERE command_id = :name")
        connection.execute(change, {"hash": hashes["c2"], "name": "c1"})
        connection.execute(change, {"hash": hashes["c1"], "name": "c2"})
    verified = filled.verify()
    assert verified.bad is not None
    assert verified.bad.command_id == "c1"


def test_a_forged_commit_is_found_by_the_one_that_follows_it(
    filled: EventStore, store_url: str
) -> None:
    """Whoever hashes one commit anew would have to go on with all that follow."""
    forged = [msgspec.structs.replace(each, data="{}") for each in filled.read_all(limit=2)]
    digest = commit_hash(GENESIS_HASH, "c1", forged[0].recorded_at, forged)
    with unprotected(store_url) as connection:
        connection.exec_driver_sql("UPDATE events SET data = '{}' WHERE position <= 2")
        change = sa.text("UPDATE commits SET hash = :hash WHERE command_id = 'c1'")
        connection.execute(change, {"hash": digest})
    verified = filled.verify()
    assert verified.bad is not None, "a commit was forged and nobody found it"
    assert verified.bad.command_id == "c2"


def test_the_boundaries_of_fields_are_part_of_the_hash(
    filled: EventStore, store_url: str
) -> None:
    """Moving a character from one field to the next one is a change."""
    with unprotected(store_url) as connection:
        connection.exec_driver_sql(
            "UPDATE events SET type = type || '{', data = substr(data, 2)"
            " WHERE position = 3"
        )
    assert not filled.verify().ok


def test_commits_by_older_rules_are_verified_too(store: EventStore, store_url: str) -> None:
    """A release that hashes by the first rules goes on beside a newer one."""
    store.append([thing("a"), bare("s", count=2)], command_id="c1")
    store.append([thing("a", 1)], command_id="c2")
    _hash_by_first_rules(store, store_url)
    assert store.verify().ok
    store.append([bare("s")], command_id="c3")
    assert store.verify().ok
    with unprotected(store_url) as connection:
        connection.exec_driver_sql("UPDATE events SET data = '{}' WHERE position = 4")
    found = store.verify()
    assert found.bad is not None
    assert found.bad.command_id == "c2"


def _hash_by_first_rules(store: EventStore, store_url: str) -> None:
    with unprotected(store_url) as connection:
        table, digest, after = schema.commits, GENESIS_HASH, 0
        for row in store.commits():
            events = store.read_all(after=after, up_to=row.last_position)
            digest = commit_hash(digest, row.command_id, row.recorded_at, events, 1)
            after = row.last_position
            changed = table.update().where(table.c.last_position == after)
            connection.execute(changed.values(hash=digest, rules=1))
        connection.execute(schema.log_head.update().values(hash=digest))


def test_the_log_may_grow_while_it_is_verified(filled: EventStore) -> None:
    """A commit that arrives meanwhile is no fault, wherever it comes in between."""

    def grow(done: int, of: int) -> None:
        filled.append([bare("late")], command_id=f"late-{done}-{of}")

    assert filled.verify(grow).ok
    assert filled.verify().ok


def test_more_commits_than_fit_a_page_are_verified(store: EventStore) -> None:
    for number in range(1_100):
        store.append([bare("s")], command_id=f"c{number}")
    found = store.verify()
    assert (found.ok, found.commits, found.events) == (True, 1_100, 1_100)


def test_commits_larger_than_a_page_are_verified(store: EventStore) -> None:
    for number in range(3):
        items = [bare(f"s{number}", count=5_001), bare(f"t{number}", count=1_500)]
        store.append(items, command_id=f"c{number}")
    found = store.verify()
    assert (found.ok, found.commits, found.events) == (True, 3, 19_503)


def test_both_databases_compute_the_same_hash(
    sqlite_url: str, postgres_store: EventStore
) -> None:
    """A log copied from one database to the other keeps its chain."""
    odd = NewEvent.of("odd:1,", {"é\0": "\u2028 %s :,", "n": 10**30}, {"schema": 1})
    items = [Append(stream="ünï,1:", expected_version=0, events=[odd, event()])]
    commit = postgres_store.append(items, command_id="id:3,é")
    create_schema(sqlite_url)
    sqlite = open_store(sqlite_url, clock=lambda: commit.recorded_at or 0)
    sqlite.append(items, command_id="id:3,é")
    assert sqlite.head() == postgres_store.head()
    sqlite.close()
