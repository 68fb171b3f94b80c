"""The triggers that derive `ready`, `timers`, `running` and `aside` from `tasks`.

A pending task that waits for nothing is in `ready`; one that waits for an instant is in
`timers`. A claim promotes what is due from `timers` to `ready`, which touches neither the
task's row nor the log. A task in progress is in `running`. In `aside` is what nothing moves
by itself: a finished task that did not complete, and a pending one that waits for something
else than an instant. So every task is in one of the four, but for those that completed.

The last two stand in the place of indexes on the status in `tasks`. With an index on what
changes, PostgreSQL writes an entry into every index of a table with each change of a row,
and the row on another page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

_COPIED = "queue, executor, verifiers, phase, priority, crashes"
_READY = "status = 'pending' AND {row}waiting_reason IS NULL"
_TIMED = "status = 'pending' AND {row}waiting_until IS NOT NULL"

PROMOTE_POSTGRESQL = f"""\
WITH due AS (
  SELECT task_id FROM timers WHERE due_at <= ?
  ORDER BY due_at LIMIT ? FOR UPDATE SKIP LOCKED
), gone AS (
  DELETE FROM timers USING due WHERE timers.task_id = due.task_id RETURNING timers.*
)
INSERT INTO ready (task_id, {_COPIED}, ready_at)
SELECT task_id, {_COPIED}, due_at FROM gone ON CONFLICT DO NOTHING"""
"""Parameters: the instant, and how many at most."""

PROMOTE_SQLITE = (
    f"INSERT INTO ready (task_id, {_COPIED}, ready_at)"
    f" SELECT task_id, {_COPIED}, due_at FROM timers WHERE due_at <= ?"
    " ORDER BY due_at LIMIT ? ON CONFLICT DO NOTHING",
    "DELETE FROM timers WHERE due_at <= ? AND task_id IN (SELECT task_id FROM ready)",
)
"""Parameters of the first as above, of the second the instant."""


class _Listing(NamedTuple):
    """A table that lists tasks in some states.

    Attributes:
        where: which tasks, with `{row}` before each column.
        columns: each with the column of `tasks` that it copies.
        watched: columns of `tasks`; when one changes, the row is made anew.
    """

    table: str
    where: str
    columns: Mapping[str, str]
    watched: tuple[str, ...]

    def holds(self, row: str) -> str:
        """Return the condition that a row of `tasks` is listed."""
        return f"({self.where.format(row=row)})"

    @property
    def names(self) -> str:
        """Return the columns for a statement."""
        return ", ".join(self.columns)

    def copied(self, row: str) -> str:
        """Return what the columns are copied from."""
        return ", ".join(f"{row}{source}" for source in self.columns.values())


RUNNING = "{row}status = 'in_progress'"
ASIDE = (
    "{row}status = 'failed' OR {row}status = 'cancelled' OR {row}status = 'discarded'"
    " OR {row}status = 'pending' AND {row}waiting_reason IS NOT NULL"
    " AND {row}waiting_until IS NULL"
)
_LISTINGS = (
    _Listing(
        "running",
        RUNNING,
        {"task_id": "id", "worker": "worker", "cancel_requested": "cancel_requested"},
        watched=("status", "worker", "cancel_requested"),
    ),
    _Listing(
        "aside",
        ASIDE,
        {"task_id": "id", "status": "status", "created_at": "created_at"},
        watched=("status", "waiting_reason", "waiting_until"),
    ),
)


def derived_ddl(dialect: str) -> list[str]:
    """Return the statements that create the triggers."""
    if dialect == "sqlite":
        return _sqlite()
    return _postgresql()


def _copied(row: str) -> str:
    return ", ".join(row + column for column in _COPIED.split(", "))


# --- SQLite ---------------------------------------------------------------------------
#
# Triggers of one event fire in no order that is promised, so no two of a table are ever
# meant for the same change of a row.


def _sqlite() -> list[str]:
    return [*_sqlite_pending(), *(t for each in _LISTINGS for t in _sqlite_listing(each))]


def _sqlite_pending() -> list[str]:
    ready = "NEW." + _READY.format(row="NEW.")
    timed = "NEW." + _TIMED.format(row="NEW.")
    inserts = (
        f"  INSERT INTO ready (task_id, {_COPIED}, ready_at)\n"
        f"  SELECT NEW.id, {_copied('NEW.')}, NEW.updated_at WHERE {ready};\n"
        f"  INSERT INTO timers (task_id, {_COPIED}, due_at)\n"
        f"  SELECT NEW.id, {_copied('NEW.')}, NEW.waiting_until WHERE {timed};\n"
    )
    deletes = (
        "  DELETE FROM timers WHERE task_id = OLD.id;\n"
        "  DELETE FROM ready WHERE task_id = OLD.id;\n"
    )
    pending = "NEW.status = 'pending'"
    moved = _differ(("status", "waiting_reason", "waiting_until"))
    left = "OLD.status = 'pending' AND NEW.status <> 'pending'"
    return [
        _sqlite_trigger("derive_insert", "INSERT", pending, inserts),
        _sqlite_trigger(
            "derive_update", "UPDATE", f"{pending} AND {moved}", deletes + inserts
        ),
        _sqlite_trigger("derive_leave", "UPDATE", left, deletes),
        _sqlite_trigger("derive_delete", "DELETE", "TRUE", deletes),
    ]


def _sqlite_listing(listing: _Listing) -> list[str]:
    table, was, is_now = listing.table, listing.holds("OLD."), listing.holds("NEW.")
    delete = f"  DELETE FROM {table} WHERE task_id = OLD.id;\n"
    insert = (
        f"  INSERT INTO {table} ({listing.names})\n  VALUES ({listing.copied('NEW.')});\n"
    )
    moved = _differ(listing.watched)
    return [
        _sqlite_trigger(f"{table}_insert", "INSERT", is_now, insert),
        _sqlite_trigger(
            f"{table}_update", "UPDATE", f"{is_now} AND {moved}", delete + insert
        ),
        _sqlite_trigger(f"{table}_leave", "UPDATE", f"{was} AND NOT {is_now}", delete),
        _sqlite_trigger(f"{table}_delete", "DELETE", was, delete),
    ]


def _differ(names: tuple[str, ...]) -> str:
    return f"({' OR '.join(f'OLD.{name} IS NOT NEW.{name}' for name in names)})"


def _sqlite_trigger(name: str, verb: str, when: str, body: str) -> str:
    return (
        f"CREATE TRIGGER tasks_{name} AFTER {verb} ON tasks WHEN {when}\nBEGIN\n{body}END"
    )


# --- PostgreSQL -----------------------------------------------------------------------

_BOTH = "FROM new_rows AS n JOIN old_rows AS o ON o.id = n.id"


def _postgresql() -> list[str]:
    parts = [_postgresql_pending(), *map(_postgresql_listing, _LISTINGS)]
    new, old = "NEW TABLE AS new_rows", "OLD TABLE AS old_rows"
    bodies = zip(("insert", "update", "delete"), zip(*parts, strict=True), strict=True)
    functions = [_function(verb, "".join(texts)) for verb, texts in bodies]
    return [
        *functions,
        _trigger("insert", new),
        _trigger("update", f"{old} {new}"),
        _trigger("delete", old),
    ]


def _postgresql_pending() -> tuple[str, str, str]:
    """Return what the three triggers do to `ready` and `timers`."""
    moved = _moved(("status", "waiting_reason", "waiting_until"))
    gone = f"(SELECT o.id {_BOTH}\n      WHERE o.status = 'pending' AND {moved})"
    # Timers go before ready rows: a promotion that is under way holds the timer, and the
    # second statement, begun after it has ended, sees the ready row that it left.
    update = (
        "  IF EXISTS (SELECT FROM old_rows WHERE status = 'pending') THEN\n"
        f"    DELETE FROM timers WHERE task_id = ANY (ARRAY{gone});\n"
        f"    DELETE FROM ready WHERE task_id = ANY (ARRAY{gone});\n"
        "  END IF;\n"
        "  IF EXISTS (SELECT FROM new_rows WHERE status = 'pending') THEN\n"
        + _postgresql_inserts(f"{_BOTH}\n    WHERE {moved} AND ")
        + "  END IF;\n"
    )
    delete = (
        "  DELETE FROM timers WHERE task_id = ANY (ARRAY(SELECT id FROM old_rows));\n"
        "  DELETE FROM ready WHERE task_id = ANY (ARRAY(SELECT id FROM old_rows));\n"
    )
    return _postgresql_inserts("FROM new_rows AS n WHERE "), update, delete


def _postgresql_inserts(source: str) -> str:
    ready, timed = "n." + _READY.format(row="n."), "n." + _TIMED.format(row="n.")
    return (
        f"    INSERT INTO ready (task_id, {_COPIED}, ready_at)\n"
        f"    SELECT n.id, {_copied('n.')}, n.updated_at {source}{ready}\n"
        "    ON CONFLICT DO NOTHING;\n"
        f"    INSERT INTO timers (task_id, {_COPIED}, due_at)\n"
        f"    SELECT n.id, {_copied('n.')}, n.waiting_until {source}{timed}\n"
        "    ON CONFLICT DO NOTHING;\n"
    )


def _postgresql_listing(listing: _Listing) -> tuple[str, str, str]:
    """Return what the three triggers do to the table of a listing."""
    was, is_now, moved = listing.holds("o."), listing.holds("n."), _moved(listing.watched)
    gone = f"{_BOTH}\n      WHERE {was} AND {moved}"
    came = f"{_BOTH}\n    WHERE {is_now} AND {moved}"
    update = _if_any("old_rows", listing, _postgresql_delete(listing, gone)) + _if_any(
        "new_rows", listing, _postgresql_insert(listing, came)
    )
    insert = _postgresql_insert(listing, f"FROM new_rows AS n\n    WHERE {is_now}")
    delete = _postgresql_delete(listing, f"FROM old_rows AS o\n      WHERE {was}")
    return (
        _if_any("new_rows", listing, insert),
        update,
        _if_any("old_rows", listing, delete),
    )


def _if_any(rows: str, listing: _Listing, statement: str) -> str:
    return (
        f"  IF EXISTS (SELECT FROM {rows} WHERE {listing.holds('')}) THEN\n"
        f"{statement}  END IF;\n"
    )


def _postgresql_insert(listing: _Listing, source: str) -> str:
    return (
        f"    INSERT INTO {listing.table} ({listing.names})\n"
        f"    SELECT {listing.copied('n.')} {source}\n    ON CONFLICT DO NOTHING;\n"
    )


def _postgresql_delete(listing: _Listing, source: str) -> str:
    # By a list of values, so that the index is used whatever the planner thinks.
    gone = f"ARRAY(SELECT o.id {source})"
    return f"    DELETE FROM {listing.table} WHERE task_id = ANY ({gone});\n"


def _moved(names: tuple[str, ...]) -> str:
    before, after = (", ".join(f"{row}.{name}" for name in names) for row in "on")
    return f"({before})\n      IS DISTINCT FROM ({after})"


def _function(verb: str, body: str) -> str:
    # Plans are kept from when the tables were empty; these settings make them the plans
    # for large tables. Only the two lists of changed rows are joined by hashing.
    return (
        f"CREATE FUNCTION tasks_derive_{verb}() RETURNS trigger LANGUAGE plpgsql\n"
        "SET enable_seqscan = off SET enable_hashjoin = on AS $$\n"
        f"BEGIN\n{body}  RETURN NULL;\nEND $$"
    )


def _trigger(verb: str, tables: str) -> str:
    return (
        f"CREATE TRIGGER tasks_derive_{verb} AFTER {verb.upper()} ON tasks\n"
        f"REFERENCING {tables}\n"
        f"FOR EACH STATEMENT EXECUTE FUNCTION tasks_derive_{verb}()"
    )
