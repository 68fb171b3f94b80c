"""The triggers that derive `ready` and `timers` from `tasks`.

A pending task that waits for nothing is in `ready`; one that waits for an instant is in
`timers`; one that waits for anything else is in neither. A claim promotes what is due from
`timers` to `ready`, which touches neither the task's row nor the log.
"""

from __future__ import annotations

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


def derived_ddl(dialect: str) -> list[str]:
    """Return the statements that create the triggers."""
    if dialect == "sqlite":
        return _sqlite()
    return _postgresql()


def _copied(row: str) -> str:
    return ", ".join(row + column for column in _COPIED.split(", "))


def _sqlite_inserts() -> str:
    ready = "NEW." + _READY.format(row="NEW.")
    timed = "NEW." + _TIMED.format(row="NEW.")
    return (
        f"  INSERT INTO ready (task_id, {_COPIED}, ready_at)\n"
        f"  SELECT NEW.id, {_copied('NEW.')}, NEW.updated_at WHERE {ready};\n"
        f"  INSERT INTO timers (task_id, {_COPIED}, due_at)\n"
        f"  SELECT NEW.id, {_copied('NEW.')}, NEW.waiting_until WHERE {timed};\n"
    )


def _sqlite() -> list[str]:
    deletes = (
        "  DELETE FROM timers WHERE task_id = OLD.id;\n"
        "  DELETE FROM ready WHERE task_id = OLD.id;\n"
    )
    moved = (
        "(OLD.status = 'pending' OR NEW.status = 'pending')"
        " AND (OLD.status IS NOT NEW.status"
        " OR OLD.waiting_reason IS NOT NEW.waiting_reason"
        " OR OLD.waiting_until IS NOT NEW.waiting_until)"
    )
    return [
        "CREATE TRIGGER tasks_derive_insert AFTER INSERT ON tasks"
        f" WHEN NEW.status = 'pending'\nBEGIN\n{_sqlite_inserts()}END",
        f"CREATE TRIGGER tasks_derive_update AFTER UPDATE ON tasks WHEN {moved}\n"
        f"BEGIN\n{deletes}{_sqlite_inserts()}END",
        f"CREATE TRIGGER tasks_derive_delete AFTER DELETE ON tasks\nBEGIN\n{deletes}END",
    ]


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


def _postgresql() -> list[str]:
    both = "FROM new_rows AS n JOIN old_rows AS o ON o.id = n.id"
    moved = (
        "(o.status, o.waiting_reason, o.waiting_until)"
        " IS DISTINCT FROM (n.status, n.waiting_reason, n.waiting_until)"
    )
    gone = f"(SELECT o.id {both}\n      WHERE o.status = 'pending' AND {moved})"
    # Timers go before ready rows: a promotion that is under way holds the timer, and the
    # second statement, begun after it has ended, sees the ready row that it left.
    update = (
        "  IF EXISTS (SELECT FROM old_rows WHERE status = 'pending') THEN\n"
        f"    DELETE FROM timers WHERE task_id = ANY (ARRAY{gone});\n"
        f"    DELETE FROM ready WHERE task_id = ANY (ARRAY{gone});\n"
        "  END IF;\n"
        "  IF EXISTS (SELECT FROM new_rows WHERE status = 'pending') THEN\n"
        + _postgresql_inserts(f"{both}\n    WHERE {moved} AND ")
        + "  END IF;\n"
    )
    delete = (
        "  DELETE FROM timers WHERE task_id = ANY (ARRAY(SELECT id FROM old_rows));\n"
        "  DELETE FROM ready WHERE task_id = ANY (ARRAY(SELECT id FROM old_rows));\n"
    )
    insert = _postgresql_inserts("FROM new_rows AS n WHERE ")
    new, old = "NEW TABLE AS new_rows", "OLD TABLE AS old_rows"
    return [
        _function("insert", insert),
        _function("update", update),
        _function("delete", delete),
        _trigger("insert", new),
        _trigger("update", f"{old} {new}"),
        _trigger("delete", old),
    ]


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
