"""The migrations build exactly the declared schema, and refuse what they don't know."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import orchd_migrations
from orchd.ledger import creation, schema
from orchd.ledger.opening import open_ledger
from orchd.system import RealSystem
from orchd.tasks.commands import Cancel
from orchd_eventstore.sqlite import driver
from orchd_migrations import running, scripts
from support.eventstores import autocommitting
from support.ledgers import Hand


def engine_for(url: str) -> sa.Engine:
    if url.startswith("sqlite"):
        return sa.create_engine(url, module=driver())
    return sa.create_engine(url)


@pytest.fixture
def second_url(
    database_url: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[str]:
    """Another empty database of the same kind."""
    if database_url.startswith("sqlite"):
        yield f"sqlite:///{tmp_path / 'second.sqlite'}"
        return
    with request.getfixturevalue("postgres_server").database() as url:
        yield url


_POSTGRES_FACTS = {
    "columns": "SELECT table_name, column_name, data_type, collation_name, is_nullable,"
    " column_default, ordinal_position FROM information_schema.columns"
    " WHERE table_schema = 'public'",
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)"
    " FROM pg_constraint WHERE connamespace = 'public'::regnamespace",
    "triggers": "SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid)"
    " FROM pg_trigger WHERE NOT tgisinternal",
    # Functions that only the release before calls are in no declared schema.
    "functions": "SELECT proname, pg_get_functiondef(oid) FROM pg_proc"
    " WHERE pronamespace = 'public'::regnamespace AND NOT"
    " (proname = 'eventstore_append' AND pronargs = 14)",
    "options": "SELECT relname, reloptions::text FROM pg_class WHERE relkind = 'r'"
    " AND relnamespace = 'public'::regnamespace",
    "head": "SELECT id, position, hash FROM log_head",
}
_SQLITE_FACTS = {
    "objects": "SELECT type, name, tbl_name, sql FROM sqlite_master"
    " WHERE name NOT LIKE 'sqlite_%'",
    "head": "SELECT id, position, hash FROM log_head",
}


def facts(url: str) -> dict[str, list[Any]]:
    """Return everything that the database says of its schema."""
    queries = _SQLITE_FACTS if url.startswith("sqlite") else _POSTGRES_FACTS
    engine = engine_for(url)
    with engine.connect() as connection:
        found = {
            name: sorted(
                tuple(_parts(_plain(value)) for value in row)
                for row in connection.exec_driver_sql(query)
                if "alembic_version" not in str(row)
            )
            for name, query in queries.items()
        }
    engine.dispose()
    return found


def _plain(value: Any) -> str:
    return re.sub(r"\s+", " ", str(value)).replace("( ", "(").replace(" )", ")").strip()


def _parts(text: str) -> str:
    """Return a table's definition with its parts in order: a column added by a migration
    stands behind the constraints."""
    if not text.startswith("CREATE TABLE"):
        return text
    head, _, rest = text.partition("(")
    body, _, tail = rest.rpartition(")")
    depth, parts = 0, [""]
    for character in body:
        depth += (character == "(") - (character == ")")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return f"{head}({', '.join(sorted(part.strip() for part in parts))}){tail}"


def upgrade(url: str) -> list[str]:
    with autocommitting(url) as connection:
        return orchd_migrations.upgrade(connection)


def test_migrations_and_the_declared_schema_are_equal(
    database_url: str, second_url: str
) -> None:
    upgrade(database_url)
    engine = engine_for(second_url)
    with engine.begin() as connection:
        creation.create_all(connection)
    engine.dispose()
    assert facts(database_url) == facts(second_url)


def test_one_migration_after_the_other_builds_what_an_empty_database_gets_at_once(
    database_url: str, second_url: str
) -> None:
    upgrade(database_url)
    with autocommitting(second_url) as connection:
        assert running.migrate(connection) == list(orchd_migrations.REVISIONS)
    assert facts(database_url) == facts(second_url)


def test_an_upgrade_is_done_once(database_url: str) -> None:
    assert upgrade(database_url) == list(orchd_migrations.REVISIONS)
    assert upgrade(database_url) == []


def test_current_tells_the_revision(database_url: str) -> None:
    with autocommitting(database_url) as connection:
        assert orchd_migrations.current(connection) is None
        upgrade(database_url)
        assert orchd_migrations.current(connection) == orchd_migrations.HEAD


def test_a_newer_schema_is_refused_and_left_alone(database_url: str) -> None:
    upgrade(database_url)
    engine = engine_for(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    before = facts(database_url)
    with pytest.raises(orchd_migrations.UnknownRevision, match="9999"):
        upgrade(database_url)
    engine.dispose()
    assert facts(database_url) == before


def test_an_upgrade_that_breaks_off_leaves_nothing_behind(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scripts.script

    def broken(name: str, dialect: str) -> list[str]:
        return [*whole(name, dialect), "THIS IS NOT SQL"]

    with monkeypatch.context() as patch:
        patch.setattr(scripts, "script", broken)
        with pytest.raises(Exception, match=r"(?i)syntax"):
            upgrade(database_url)
    assert upgrade(database_url) == list(orchd_migrations.REVISIONS)


def test_two_upgraders_take_turns(postgres_url: str) -> None:
    done: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: done.append(upgrade(postgres_url)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(len, done)) == [0, 0, 0, len(orchd_migrations.REVISIONS)]


def test_a_dba_can_build_the_schema_from_the_statements(
    database_url: str, second_url: str
) -> None:
    upgrade(second_url)
    engine = engine_for(database_url)
    dialect = "sqlite" if database_url.startswith("sqlite") else "postgresql"
    with engine.begin() as connection:
        cursor = connection.connection.cursor()
        for statement in orchd_migrations.statements(dialect):
            cursor.execute(statement)
    engine.dispose()
    assert facts(database_url) == facts(second_url)
    assert upgrade(database_url) == []


async def test_an_upgrade_lists_what_runs_and_what_failed_already(
    database_url: str, second_url: str
) -> None:
    await _fill(second_url)
    names = ", ".join(f'"{column.name}"' for column in schema.TASKS.columns)
    tasks = _rows(second_url, f"SELECT {names} FROM tasks")
    dialect = "sqlite" if database_url.startswith("sqlite") else "postgresql"
    marks = ", ".join(["?" if dialect == "sqlite" else "%s"] * len(schema.TASKS.columns))
    with autocommitting(database_url) as connection:
        scripts.execute(connection, scripts.schema(dialect, "0003"))
        insert = f"INSERT INTO tasks ({names}) VALUES ({marks})"
        for row in tasks:
            connection.execute(insert, row)
        connection.commit()
    assert upgrade(database_url) == ["0004", "0005"]
    for query in (
        "SELECT task_id, worker, cancel_requested FROM running ORDER BY task_id",
        "SELECT task_id, status, created_at FROM aside ORDER BY task_id",
    ):
        found = _rows(database_url, query)
        assert found == _rows(second_url, query)
        assert len(found) == 1


async def _fill(url: str) -> None:
    """Make a state with a task that runs, one that was cancelled and one that waits."""
    ledger = open_ledger(
        url, system=RealSystem(), access="write", create=True, migrate=True
    )
    hand = Hand(ledger)
    await hand.register()
    await hand.submit("cancelled")
    await hand.act("cancelled", Cancel(now=hand.now()))
    await hand.submit("running")
    await hand.claimed(1)
    await hand.submit("waiting")
    await ledger.close()


def _rows(url: str, query: str) -> list[tuple[Any, ...]]:
    engine = engine_for(url)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.exec_driver_sql(query)]
    engine.dispose()
    return found
