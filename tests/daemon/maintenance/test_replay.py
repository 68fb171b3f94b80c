"""Replaying the log finds, names and mends whatever was changed by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from orchd.errors import StateLocked, StateMissing
from orchd.ledger import schema
from orchd.maintenance.difference import Difference
from orchd.maintenance.replay import Options, check, mend
from orchd.system import RealSystem
from orchd_eventstore import Column, Kind
from support.engines import Harness, ScriptedExecutor
from support.tampering import connected, query, tamper
from support.templates import StateTemplates

SYSTEM = RealSystem()
KEYS = {
    "tasks": ("id", "retried"),
    "queues": ("name", "default"),
    "breakers": ("name", "other"),
    "ready": ("task_id", "ready"),
    "timers": ("task_id", "far"),
    "counters": ("name", "queue/default/completed"),
}


def found(url: str, **options: Any) -> list[Difference]:
    return list(check(url, system=SYSTEM, options=Options(**options)))


def places(differences: list[Difference]) -> set[tuple[str, str, str]]:
    return {(d.table, d.row, d.column) for d in differences}


def _columns() -> list[Any]:
    tables = (schema.TASKS, schema.QUEUES, schema.BREAKERS, schema.READY, schema.TIMERS)
    return [(table, column) for table in tables for column in table.columns[1:]]


def _other(column: Column, value: Any) -> Any:
    if column.kind is Kind.FLAG:
        return not value
    if column.kind in (Kind.INTEGER, Kind.NUMBER):
        return 7777 if value is None else value + 1
    return "tampered" if value is None else f"{value}x"


def _row(url: str, table: str, key: str, name: str) -> dict[str, Any]:
    with_key = sa.text(f"SELECT * FROM {table} WHERE {key} = :name")
    with connected(url) as connection:
        row = connection.execute(with_key, {"name": name}).mappings().one()
        return dict(row)


def test_an_untouched_state_is_what_the_log_says(state_url: str) -> None:
    assert found(state_url) == []


def test_every_column_changed_by_hand_is_found_named_and_mended(
    histories: StateTemplates, tmp_path: Path
) -> None:
    with histories.copy("sqlite", tmp_path) as url:
        for table, column in _columns():
            expected = _tamper_columns(url, table, [column])
            [difference] = found(url)
            where = f"{table.name}.{column.name}"
            assert places([difference]) == expected, where
            assert column.name in str(difference)
            assert places(list(mend(url, system=SYSTEM))) == expected, where
            assert found(url) == [], where


def test_a_row_with_every_column_changed_is_named_and_mended(state_url: str) -> None:
    for name in KEYS.keys() - {"counters"}:
        [table] = {table for table, _ in _columns() if table.name == name}
        expected = _tamper_columns(state_url, table, table.columns[1:])
        assert places(found(state_url)) == expected
        assert places(list(mend(state_url, system=SYSTEM))) == expected
        assert found(state_url) == [], name


def _tamper_columns(
    url: str, table: Any, columns: Sequence[Any]
) -> set[tuple[str, str, str]]:
    """Change some columns of a row; return the places of the differences."""
    key, name = KEYS[table.name]
    row = _row(url, table.name, key, name)
    changes = ", ".join(f'"{column.name}" = ?' for column in columns)
    values = [_other(column, row[column.name]) for column in columns]
    tamper(url, f"UPDATE {table.name} SET {changes} WHERE {key} = ?", (*values, name))
    return {(table.name, name, column.name) for column in columns}


def test_a_deleted_row_is_found_and_mended(state_url: str) -> None:
    tamper(state_url, "DELETE FROM tasks WHERE id = 'dead'")
    differences = found(state_url)
    assert places(differences) == {("tasks", "dead", "")}
    assert differences[0].stored is None
    assert len(list(mend(state_url, system=SYSTEM))) == 1
    assert found(state_url) == []


def test_a_row_without_a_stream_is_found_and_removed(state_url: str) -> None:
    names = [f'"{column.name}"' for column in schema.TASKS.columns]
    values = ["'stray'" if n == '"id"' else n for n in names]
    values = ["NULL" if v == '"idempotency_key"' else v for v in values]
    tamper(
        state_url,
        f"INSERT INTO tasks ({', '.join(names)}) SELECT {', '.join(values)}"
        " FROM tasks WHERE id = 'plain'",
    )
    assert places(found(state_url)) == {("tasks", "stray", "")}
    list(mend(state_url, system=SYSTEM))
    assert query(state_url, "SELECT id FROM tasks WHERE id = 'stray'") == []


@pytest.mark.parametrize(
    ("statement", "place"),
    [
        ("DELETE FROM ready WHERE task_id = 'ready'", ("ready", "ready", "")),
        ("DELETE FROM timers WHERE task_id = 'far'", ("timers", "far", "")),
        ("DELETE FROM queues WHERE name = 'default'", ("queues", "default", "")),
        ("DELETE FROM breakers WHERE name = 'other'", ("breakers", "other", "")),
        (
            "UPDATE ready SET task_id = 'ghost' WHERE task_id = 'ready'",
            ("ready", "ghost", ""),
        ),
        ("UPDATE timers SET task_id = 'ghost'", ("timers", "ghost", "")),
        (
            "UPDATE counters SET value = value + 1 WHERE name = 'queue/default/completed'",
            ("counters", "queue/default/completed", "value"),
        ),
        (
            "DELETE FROM counters WHERE name = 'events/task.submitted'",
            ("counters", "events/task.submitted", "value"),
        ),
        ("INSERT INTO counters VALUES ('stray', 1)", ("counters", "stray", "value")),
    ],
)
def test_whole_rows_and_counters_are_found_and_mended(
    state_url: str, statement: str, place: tuple[str, str, str]
) -> None:
    tamper(state_url, statement)
    assert place in places(found(state_url))
    list(mend(state_url, system=SYSTEM))
    assert found(state_url) == []


def test_a_wrong_status_is_not_also_reported_as_a_wrong_counter(state_url: str) -> None:
    tamper(state_url, "UPDATE tasks SET status = 'failed' WHERE id = 'plain'")
    assert places(found(state_url)) == {("tasks", "plain", "status")}


def test_one_task_can_be_checked_and_mended_alone(state_url: str) -> None:
    tamper(state_url, "UPDATE tasks SET priority = 99")
    assert places(found(state_url, task_id="plain")) == {("tasks", "plain", "priority")}
    list(mend(state_url, system=SYSTEM, options=Options(task_id="plain")))
    assert found(state_url, task_id="plain") == []
    assert len(found(state_url)) > 1


def test_everything_can_be_rebuilt_from_the_log_alone(state_url: str) -> None:
    before = query(state_url, "SELECT * FROM tasks ORDER BY id")
    for table in KEYS:
        tamper(state_url, f"DELETE FROM {table}")
    list(mend(state_url, system=SYSTEM))
    assert found(state_url) == []
    assert query(state_url, "SELECT * FROM tasks ORDER BY id") == before


def test_checking_changes_nothing(state_url: str) -> None:
    tamper(state_url, "UPDATE tasks SET priority = 99")
    once = found(state_url)
    assert found(state_url) == once
    assert once


def test_progress_ends_at_the_total(state_url: str) -> None:
    told: list[tuple[str, int, int | None]] = []
    found(state_url, progress=lambda *parts: told.append(parts))
    last = {what: (done, total) for what, done, total in told}
    [(events,)] = query(state_url, "SELECT count(*) FROM events")
    assert last["events"] == (events, events)


async def test_checking_beside_a_busy_engine_finds_nothing(database_url: str) -> None:
    harness = await Harness.open(database_url, [ScriptedExecutor()])
    working = asyncio.create_task(_keep_busy(harness))
    try:
        for _ in range(5):
            assert await asyncio.to_thread(found, database_url) == []
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await harness.close()


async def _keep_busy(harness: Harness) -> None:
    for number in range(10_000):
        await harness.submit(f"t{number}")


async def test_a_sqlite_state_in_use_is_not_mended(sqlite_url: str) -> None:
    harness = await Harness.open(sqlite_url, [ScriptedExecutor()])
    await harness.submit("a")
    await harness.settle()
    assert await asyncio.to_thread(lambda: list(mend(sqlite_url, system=SYSTEM))) == []
    tamper(sqlite_url, "UPDATE tasks SET priority = 99")
    with pytest.raises(StateLocked):
        await asyncio.to_thread(lambda: list(mend(sqlite_url, system=SYSTEM)))
    await harness.close()


def test_without_a_state_there_is_nothing_to_check(sqlite_url: str) -> None:
    with pytest.raises(StateMissing):
        found(sqlite_url)
