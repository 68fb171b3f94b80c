"""A batch of many rows is written by a few statements, and each of its items wins alone."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from orchd_eventstore import (
    Append,
    Appended,
    Conflict,
    EventStore,
    InvalidAppend,
    Rejected,
)
from support.eventstores import create_schema, open_store, rows, thing

COUNTS = (1, 7, 8, 9, 63, 64, 65, 150)
"""Around the numbers of rows that one statement may have."""


def won(store: EventStore, items: Sequence[Append], command_id: str) -> set[str]:
    outcomes = store.append(items, command_id=command_id).outcomes
    return {
        item.stream
        for item, outcome in zip(items, outcomes, strict=True)
        if isinstance(outcome, Appended)
    }


@pytest.mark.parametrize("count", COUNTS)
def test_who_exists_already_loses_alone(store: EventStore, count: int) -> None:
    names = [f"n{number}" for number in range(count)]
    taken = [name for number, name in enumerate(names) if number % 3 == 0]
    won(store, [thing(name) for name in taken], "taken")
    winners = won(store, [thing(name) for name in names], "all")
    assert winners == {thing(name).stream for name in names if name not in taken}
    assert store.verify().ok
    assert len(store.read_all()) == count


@pytest.mark.parametrize("count", COUNTS)
def test_who_has_moved_loses_alone(store: EventStore, count: int) -> None:
    names = [f"n{number}" for number in range(count)]
    won(store, [thing(name) for name in names], "first")
    moved = names[::4]
    won(store, [thing(name, 1) for name in moved], "moved")
    winners = won(store, [thing(name, 1, amount=9) for name in names], "all")
    assert winners == {thing(name).stream for name in names if name not in moved}
    for name in names:
        assert len(store.read_stream(thing(name).stream)) == 2
    assert store.verify().ok


def test_new_and_old_rows_in_any_order_are_told_apart(store: EventStore) -> None:
    chance = random.Random(4)
    old = [f"old{number}" for number in range(90)]
    won(store, [thing(name) for name in old], "first")
    items = [thing(name, 1) for name in old] + [thing(f"new{n}") for n in range(90)]
    items += [thing(f"late{n}", 5) for n in range(10)]
    chance.shuffle(items)
    commit = store.append(items, command_id="mixed")
    for item, outcome in zip(items, commit.outcomes, strict=True):
        late = item.stream.startswith(thing("late").stream)
        assert isinstance(outcome, Conflict if late else Appended), item.stream
    stored = [event.stream for event in store.read_all(after=90)]
    assert stored == [i.stream for i in items if not i.stream.startswith("thing-late")]


def test_one_bad_row_among_many_is_refused_alone(store: EventStore) -> None:
    items = [thing(f"n{number}") for number in range(100)]
    items[77] = thing("bad", made_by="nu\0l")
    outcomes = store.append(items, command_id="bad").outcomes
    bad = [n for n, outcome in enumerate(outcomes) if not isinstance(outcome, Appended)]
    assert bad == [77]
    assert isinstance(outcomes[77], Rejected)
    assert store.verify().ok


def test_a_key_that_the_table_stores_as_something_else_is_refused(
    sqlite_url: str,
) -> None:
    create_schema(sqlite_url)
    store = open_store(sqlite_url)
    item = thing("5")
    assert isinstance(item.row, dict)
    item.row["id"] = 5
    with pytest.raises(InvalidAppend, match=r"things\.id"):
        store.append([thing("4"), item], command_id="five")
    assert rows(store) == {}
    assert store.head().position == 0
    store.close()


def test_of_two_new_streams_with_one_key_the_first_wins(sqlite_url: str) -> None:
    create_schema(sqlite_url)
    store = open_store(sqlite_url)
    first, second = thing("a"), thing("b")
    assert isinstance(second.row, dict)
    second.row["id"] = "a"
    assert won(store, [first, second], "twins") == {first.stream}
    assert [event.stream for event in store.read_all()] == [first.stream]
    store.close()
