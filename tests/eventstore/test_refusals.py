"""The database itself refuses to change what is written once."""

import pytest
import sqlalchemy as sa

from orchd_eventstore import Blob, EventStore
from support.eventstores import connected, create_schema, open_store, thing


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET data = '{}'",
        "UPDATE events SET recorded_at = recorded_at WHERE position = 1",
        "DELETE FROM events",
        "DELETE FROM events WHERE position = 2",
        "UPDATE commits SET hash = ''",
        "DELETE FROM commits",
        "UPDATE blobs SET body = encoding",
    ],
)
def test_a_change_is_refused(store: EventStore, store_url: str, statement: str) -> None:
    store.append([thing("a", count=2)], command_id="c", blobs=[Blob.of(b"body")])
    if "body" in statement and store_url.startswith("postgresql"):
        statement = "UPDATE blobs SET size = 0"
    before = store.read_all()
    with pytest.raises(sa.exc.DBAPIError, match="written once"):
        with connected(store_url) as connection:
            connection.exec_driver_sql(statement)
    assert store.read_all() == before
    assert store.verify().ok


@pytest.mark.parametrize("table", ["events", "commits"])
def test_a_table_cannot_be_emptied(
    postgres_store: EventStore, postgres_store_url: str, table: str
) -> None:
    postgres_store.append([thing("a")], command_id="c")
    with pytest.raises(sa.exc.DBAPIError, match="written once"):
        with connected(postgres_store_url) as connection:
            connection.exec_driver_sql(f"TRUNCATE {table}")
    assert postgres_store.verify().ok


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT OR REPLACE INTO events VALUES (1, 'x', 9, 't', '{}', '{}', 'now')",
        "INSERT OR REPLACE INTO events VALUES (9, 'thing-a', 1, 't', '{}', '{}', 'now')",
        "INSERT OR REPLACE INTO commits VALUES (1, 'x', 1, 'now', '', 1)",
        "INSERT OR REPLACE INTO commits VALUES (9, 'c', 1, 'now', '', 1)",
    ],
)
def test_sqlite_refuses_to_replace_what_is_written_once(
    sqlite_url: str, statement: str
) -> None:
    """REPLACE deletes the row in its way, and no trigger for DELETE hears of it."""
    create_schema(sqlite_url)
    store = open_store(sqlite_url)
    store.append([thing("a")], command_id="c", blobs=[Blob.of(b"body")])
    with pytest.raises(sa.exc.DBAPIError, match="written once"):
        with connected(sqlite_url) as connection:
            connection.exec_driver_sql(statement)
    assert store.verify().ok
    store.close()


def test_sqlite_takes_the_settings_that_make_commits_durable(sqlite_url: str) -> None:
    create_schema(sqlite_url)
    store = open_store(sqlite_url)
    with store.transaction() as tx:
        settings = {
            name: tx.execute(f"PRAGMA {name}")[0][0]
            for name in ("journal_mode", "synchronous", "busy_timeout")
        }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "busy_timeout": 5000}
    store.close()


def test_postgres_sessions_are_durable_and_cannot_hold_others_up(
    postgres_store: EventStore,
) -> None:
    names = (
        "synchronous_commit",
        "lock_timeout",
        "idle_in_transaction_session_timeout",
        "application_name",
    )
    with postgres_store.transaction() as tx:
        settings = [tx.execute(f"SHOW {name}")[0][0] for name in names]
    assert settings == ["on", "5s", "10s", "orchd"]
