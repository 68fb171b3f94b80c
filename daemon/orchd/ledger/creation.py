"""The indexes of the tables, their options, and the creation of it all.

`orchd.ledger.derived` holds the triggers that keep `ready` and `timers`, and
`orchd.ledger.claim_function` the function that claims on PostgreSQL. No daemon imports
this: what it declares is what the migrations have to build.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from orchd.interfaces import TaskStatus
from orchd.ledger.claim_function import CLAIM_FUNCTION, claim_ddl
from orchd.ledger.derived import derived_ddl
from orchd.ledger.schema import (
    ASIDE,
    BREAKERS,
    LIMITS,
    PROJECTIONS,
    QUEUES,
    READY,
    RUNNING,
    TASKS,
    TIMERS,
    WORKERS,
)
from orchd.tasks.state import TERMINAL, Phase
from orchd_eventstore import creation
from orchd_eventstore import schema as store_schema
from orchd_eventstore.creation import declared

metadata = sa.MetaData()


def _listed(values: Iterable[TaskStatus | Phase]) -> str:
    return ", ".join(f"'{text}'" for text in sorted(value.value for value in values))


_STATUSES = _listed(TaskStatus)
_PHASES = _listed(Phase)
_TERMINAL = _listed(TERMINAL)
_HAS_RESULT = "(result IS NOT NULL OR result_blob IS NOT NULL)"

_TASK_RULES = {
    "status": f"status IN ({_STATUSES})",
    "phase": f"phase IN ({_PHASES})",
    "version": "version >= 1",
    "round": "round >= 1",
    "runs": "runs >= 0",
    "attempts": "attempts >= 0 AND attempts <= max_attempts",
    "max_attempts": "max_attempts >= 1",
    "counts": "crashes >= 0 AND deferrals >= 0 AND verify_errors >= 0",
    "holder": (
        "(status = 'in_progress' AND token IS NOT NULL AND worker IS NOT NULL"
        " AND started_at IS NOT NULL) OR (status <> 'in_progress' AND token IS NULL"
        " AND worker IS NULL AND started_at IS NULL AND deadline IS NULL"
        " AND NOT alone AND NOT cancel_requested)"
    ),
    "token": "token IS NULL OR (token >= 1 AND token <= version)",
    "waiting": (
        "waiting_reason IS NULL AND waiting_until IS NULL AND waiting_ref IS NULL"
        " OR waiting_reason IS NOT NULL AND status = 'pending'"
    ),
    "finished": (
        f"(status IN ({_TERMINAL}) AND finished_at IS NOT NULL)"
        f" OR (status NOT IN ({_TERMINAL}) AND finished_at IS NULL)"
    ),
    "completed": f"status <> 'completed' OR {_HAS_RESULT}",
    "verify": f"phase <> 'verify' OR {_HAS_RESULT}",
    "error": "status NOT IN ('failed', 'discarded') OR error_class IS NOT NULL",
    "description": (
        "(description IS NULL AND description_blob IS NOT NULL)"
        " OR (description IS NOT NULL AND description_blob IS NULL)"
    ),
    "payload": "payload IS NULL OR payload_blob IS NULL",
    "result": "result IS NULL OR result_blob IS NULL",
}

_BREAKER_RULES = {
    "version": "version >= 1",
    "position": (
        "(position = 'closed' AND until IS NULL AND worker IS NULL)"
        " OR (position = 'open' AND until IS NOT NULL AND worker IS NULL)"
        " OR (position = 'half_open' AND until IS NOT NULL AND worker IS NOT NULL)"
    ),
}


def _rules(table: str, rules: dict[str, str]) -> list[sa.CheckConstraint]:
    return [
        sa.CheckConstraint(rule, name=f"{table}_{name}_check")
        for name, rule in rules.items()
    ]


tasks = declared(TASKS, metadata, *_rules("tasks", _TASK_RULES))
queues = declared(QUEUES, metadata, *_rules("queues", {"version": "version >= 1"}))
breakers = declared(BREAKERS, metadata, *_rules("breakers", _BREAKER_RULES))
ready = declared(READY, metadata)
timers = declared(TIMERS, metadata)
running = declared(RUNNING, metadata)
aside = declared(ASIDE, metadata)
workers = declared(
    WORKERS, metadata, *_rules("workers", {"lease": "expires_at >= renewed_at"})
)
limits = declared(LIMITS, metadata)


def _partial_index(
    name: str,
    where: sa.ColumnElement[bool],
    *columns: sa.ColumnElement[Any],
    unique: bool = False,
) -> None:
    sa.Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


_KEY = tasks.c.idempotency_key
_partial_index(
    "tasks_idempotency_key", _KEY.is_not(None), tasks.c.namespace, _KEY, unique=True
)
# No index of `tasks` is on a column that changes while all goes well. Lists are in the
# order of creation and then of ids, and few tasks are created at the same instant; without
# the ids these indexes have a third of the size.
sa.Index("tasks_newest", tasks.c.created_at)
sa.Index("tasks_by_queue", tasks.c.queue, tasks.c.created_at)
sa.Index("tasks_by_executor", tasks.c.executor, tasks.c.created_at)
for _body in ("description_blob", "payload_blob", "result_blob"):
    _column = tasks.c[_body]
    _partial_index(f"tasks_by_{_body}", _column.is_not(None), _column)

# A row that starts and one that ends find room on the page that they are on.
tasks.dialect_options["postgresql"]["with"] = {"fillfactor": 50}

for _table in (ready, timers, running, aside):
    _table.dialect_options["sqlite"]["with_rowid"] = False
    # They come and go with every task, so PostgreSQL has to clean them often.
    _table.dialect_options["postgresql"]["with"] = {
        "autovacuum_vacuum_scale_factor": 0.02,
        "autovacuum_analyze_scale_factor": 0.05,
    }
sa.Index("ready_order", ready.c.priority.desc(), ready.c.ready_at, ready.c.task_id)
sa.Index("ready_oldest", ready.c.queue, ready.c.ready_at)
_CRASHED = ready.c.crashes > sa.literal_column("0")
_partial_index("ready_crashed", _CRASHED, ready.c.crashes, ready.c.task_id)
sa.Index("timers_due", timers.c.due_at)
sa.Index("running_by_worker", running.c.worker)
_partial_index(
    "running_cancel_requested",
    running.c.cancel_requested,
    running.c.worker,
    running.c.task_id,
)
sa.Index("aside_by_status", aside.c.status, aside.c.created_at, aside.c.task_id)


def create_all(connection: sa.Connection) -> None:
    """Create everything in an empty database, the event store's part included."""
    store_schema.metadata.create_all(connection, checkfirst=False)
    metadata.create_all(connection, checkfirst=False)
    dialect = connection.dialect.name
    store = creation.ddl(dialect, PROJECTIONS, CLAIM_FUNCTION)
    creation.execute_all(connection, store)
    creation.execute_all(connection, derived_ddl(dialect))
    if dialect == "postgresql":
        creation.execute_all(connection, claim_ddl())
