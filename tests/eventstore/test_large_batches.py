"""A batch may be larger than any buffer between here and the database."""

from __future__ import annotations

from orchd_eventstore import Append, Appended, EventStore, NewEvent

BYTES_OF_EACH = 40_000


def items(prefix: str, count: int) -> list[Append]:
    event = NewEvent.of("large.happened", {"text": "x" * BYTES_OF_EACH}, {"schema": 1})
    return [
        Append(stream=f"{prefix}-{number}", expected_version=0, events=[event])
        for number in range(count)
    ]


def test_a_large_batch_is_appended(store: EventStore) -> None:
    commit = store.append(items("large", 100), command_id="large")
    assert all(isinstance(outcome, Appended) for outcome in commit.outcomes)


def test_a_large_batch_is_appended_after_reads(store: EventStore) -> None:
    with store.session() as session:
        session.execute_all([("SELECT count(*) FROM events", ())])
        commit = session.append(items("after", 100), command_id="after")
    assert all(isinstance(outcome, Appended) for outcome in commit.outcomes)
