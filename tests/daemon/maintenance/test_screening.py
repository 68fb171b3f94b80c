"""The quick look overlooks nothing that a close look finds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.ledger import schema
from orchd.maintenance.difference import Difference
from orchd.maintenance.folding import StoredEvent, UnreadableStream, fold_task, task_values
from orchd.maintenance.replay import check, mend
from orchd.system import RealSystem
from orchd.tasks import events as e
from orchd_eventstore import Column, Kind
from support.tampering import query, tamper
from support.templates import StateTemplates

SYSTEM = RealSystem()
TABLES = (schema.TASKS, schema.QUEUES, schema.BREAKERS, schema.READY, schema.TIMERS)
COLUMNS = [(table, column) for table in TABLES for column in table.columns[1:]]
INSTANTS = st.integers(0, 9)
NUMBERS = st.integers(0, 3)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=4)
FLOATS = st.none() | st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.lists(st.sampled_from(("first", "second")), max_size=2).map(tuple)
REFERENCES = st.builds(e.BlobReference, hash=TEXTS, size=NUMBERS)
BODIES = TEXTS | REFERENCES
JSON = TEXTS.map(msgspec.json.encode) | REFERENCES.map(msgspec.json.encode)
RAW = st.none() | (JSON | st.sampled_from([b"null", b"{}", b"[1]"])).map(msgspec.Raw)
PHASES = st.sampled_from(("execute", "verify", "invented"))


def _some(kind: type[Any], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(kind, **fields)


SUBMITTED = _some(
    e.TaskSubmitted,
    description=BODIES,
    payload=RAW,
    executor=TEXTS,
    verifiers=NAMES,
    queue=TEXTS,
    priority=NUMBERS,
    run_at=st.none() | INSTANTS,
    max_attempts=NUMBERS,
    execute_timeout_seconds=FLOATS,
    verify_timeout_seconds=FLOATS,
    metadata=RAW,
    labels=st.dictionaries(TEXTS, TEXTS, max_size=2),
    lane=st.none() | TEXTS,
    namespace=TEXTS,
    parent_id=st.none() | TEXTS,
    idempotency_key=st.none() | TEXTS,
    body_hash=TEXTS,
)
STARTED = _some(
    e.TaskStarted,
    run=NUMBERS,
    attempt=NUMBERS,
    phase=PHASES,
    token=NUMBERS,
    worker=TEXTS,
    deadline=st.none() | INSTANTS,
    alone=st.booleans(),
)
COMPLETED = _some(
    e.TaskCompleted,
    run=NUMBERS,
    token=NUMBERS,
    result=st.none() | BODIES,
    confidence=FLOATS,
    result_metadata=RAW,
    verifiers=NAMES,
)
OTHERS = st.one_of(
    _some(e.TaskExecuted, run=NUMBERS, result=BODIES, result_metadata=RAW),
    _some(e.TaskVerified, run=NUMBERS, passed=st.booleans(), verifier=TEXTS),
    _some(e.TaskRetried, run=NUMBERS, run_at=INSTANTS, error_class=TEXTS, error=TEXTS),
    _some(e.TaskFailed, run=NUMBERS, error_class=TEXTS, feedback=st.none() | TEXTS),
    _some(e.TaskReleased, run=NUMBERS, reason=TEXTS, until=st.none() | INSTANTS),
    _some(e.TaskRequeued, round=NUMBERS, verify_only=st.booleans()),
    st.sampled_from([e.TaskCancelRequested(), e.TaskCancelled(), e.TaskDiscarded()]),
)
METAS = st.builds(
    e.EventMeta,
    schema=st.just(1),
    at=INSTANTS,
    traceparent=st.none() | TEXTS,
    causation=st.none() | TEXTS,
)
SINGLE_RUNS = st.tuples(SUBMITTED, STARTED, COMPLETED)
ANY_LIVES = st.tuples(
    SUBMITTED, st.lists(STARTED | COMPLETED | SUBMITTED | OTHERS, max_size=6)
).map(lambda life: (life[0], *life[1]))


def stored(events: Sequence[Any], metas: Sequence[e.EventMeta]) -> list[Any]:
    """Return events as they are read from a database."""
    return [
        ("task-a", place + 1, e.event_name(event), e.encode(event), e.encode(meta), 7)
        for place, (event, meta) in enumerate(zip(events, metas, strict=False))
    ]


def assert_same_row(rows: list[Any]) -> None:
    close = fold_task("a", [StoredEvent(*row[:5]) for row in rows]).row
    assert close is not None
    quick = task_values("a", rows)
    assert quick == tuple(close.values())
    assert [type(v) for v in quick if not isinstance(v, str)] == [
        type(v) for v in close.values() if not isinstance(v, str)
    ]


@given(SINGLE_RUNS, st.tuples(METAS, METAS, METAS))
def test_a_single_run_gives_the_row_that_folding_gives(
    events: Sequence[Any], metas: Sequence[e.EventMeta]
) -> None:
    assert_same_row(stored(events, metas))


@given(ANY_LIVES, st.lists(METAS, min_size=7, max_size=7))
def test_every_life_gives_the_row_that_folding_gives(
    events: Sequence[Any], metas: Sequence[e.EventMeta]
) -> None:
    assert_same_row(stored(events, metas))


def places(differences: Iterable[Difference]) -> set[tuple[str, str, str]]:
    return {(one.table, one.row, one.column) for one in differences}


def _other(column: Column, key: str) -> str:
    if column.kind is Kind.FLAG:
        return f'NOT "{column.name}"'
    if column.kind in (Kind.INTEGER, Kind.NUMBER):
        return f'coalesce("{column.name}", 0) + 1'
    # Some columns must be unique.
    return f"coalesce(\"{column.name}\", '') || {key}"


def test_a_column_that_is_wrong_in_every_row_is_found_in_every_row(state_url: str) -> None:
    for table, column in COLUMNS:
        key = table.columns[0].name
        change = f'"{column.name}" = {_other(column, key)}'
        tamper(state_url, f"UPDATE {table.name} SET {change}")
        keys = [row[0] for row in query(state_url, f"SELECT {key} FROM {table.name}")]
        expected = {(table.name, key, column.name) for key in keys}
        assert places(mend(state_url, system=SYSTEM)) == expected, column


@pytest.mark.parametrize(
    ("column", "damage"),
    [
        ("data", "nonsense"),
        ("data", "[]"),
        ("meta", "nonsense"),
        ("meta", '{"schema":1}'),
        ("meta", '{"actor":5,"at":1,"schema":1}'),
        ("type", "task.invented"),
    ],
)
def test_every_damaged_event_is_found(
    histories: StateTemplates, tmp_path: Path, column: str, damage: str
) -> None:
    with histories.copy("sqlite", tmp_path) as url:
        events = query(url, f"SELECT position, stream, {column} FROM events")
        for position, stream, whole in events:
            change = f"UPDATE events SET {column} = ? WHERE position = ?"
            tamper(url, change, (damage, position))
            with pytest.raises(UnreadableStream, match=stream):
                list(check(url, system=SYSTEM))
            tamper(url, change, (whole, position))
        assert list(check(url, system=SYSTEM)) == []
