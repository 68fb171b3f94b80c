"""The newest PostgreSQL that we have, should everything else be tested on an older one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchd_eventstore import Appended, EventStore, Rejected
from orchd_eventstore.postgres import TURN_ITEMS_MIN
from support.eventstores import thing
from support.postgres import PostgresServer, newest_server


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[PostgresServer]:
    """What every other fixture of PostgreSQL builds on, for the tests of this module."""
    with newest_server() as server:
        yield server


@pytest.mark.parametrize("count", [1, TURN_ITEMS_MIN - 1, TURN_ITEMS_MIN, 200])
def test_batches_of_any_size_are_appended(postgres_store: EventStore, count: int) -> None:
    batch = [thing(f"{count}-{number}") for number in range(count)]
    commit = postgres_store.append(batch, command_id=f"of {count}")
    assert [type(outcome) for outcome in commit.outcomes] == [Appended] * count
    assert postgres_store.append(batch, command_id=f"of {count}").repeated


def test_a_large_batch_is_stored_but_for_what_is_rejected(
    postgres_store: EventStore,
) -> None:
    batch = [thing(f"good{number}") for number in range(40)]
    commit = postgres_store.append([*batch, thing("bad", amount=-1)], command_id="one bad")
    expected = [Appended] * 40 + [Rejected]
    assert [type(outcome) for outcome in commit.outcomes] == expected
    assert postgres_store.verify().ok
