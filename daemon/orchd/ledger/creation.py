"""The indexes of the tables, their options, and the creation of it all.

`orchd.ledger.derived` holds the triggers that keep `ready` and `timers`, and
`orchd.ledger.claim_function` the function that claims on PostgreSQL. No daemon imports
this: what it declares is what the migrations have to build, and needs the dialects of both
databases, 3 MB.
"""

from __future__ import annotations

import sqlalchemy as sa

from orchd.ledger.claim_function import CLAIM_FUNCTION, claim_ddl
from orchd.ledger.derived import derived_ddl
from orchd.ledger.schema import PROJECTIONS, metadata, ready, tasks, timers
from orchd_eventstore import creation
from orchd_eventstore import schema as store_schema

_KEYED = tasks.c.idempotency_key.is_not(None)
_HELD = tasks.c.status == sa.literal_column("'in_progress'")
_CANCELLED = tasks.c.cancel_requested
sa.Index(
    "tasks_idempotency_key",
    tasks.c.namespace,
    tasks.c.idempotency_key,
    unique=True,
    sqlite_where=_KEYED,
    postgresql_where=_KEYED,
)
sa.Index("tasks_newest", tasks.c.created_at, tasks.c.id)
sa.Index("tasks_by_status", tasks.c.status, tasks.c.created_at, tasks.c.id)
sa.Index("tasks_by_queue", tasks.c.queue, tasks.c.created_at, tasks.c.id)
sa.Index("tasks_by_executor", tasks.c.executor, tasks.c.created_at, tasks.c.id)
sa.Index(
    "tasks_held",
    tasks.c.worker,
    tasks.c.id,
    sqlite_where=_HELD,
    postgresql_where=_HELD,
)
sa.Index(
    "tasks_cancel_requested",
    tasks.c.worker,
    tasks.c.id,
    sqlite_where=_CANCELLED,
    postgresql_where=_CANCELLED,
)
for _body in ("description_blob", "payload_blob", "result_blob"):
    _HAS_BODY = tasks.c[_body].is_not(None)
    sa.Index(
        f"tasks_by_{_body}",
        tasks.c[_body],
        sqlite_where=_HAS_BODY,
        postgresql_where=_HAS_BODY,
    )

for _table in (ready, timers):
    _table.dialect_options["sqlite"]["with_rowid"] = False
    # Both come and go with every task, so PostgreSQL has to clean them often.
    _table.dialect_options["postgresql"]["with"] = {
        "autovacuum_vacuum_scale_factor": 0.02,
        "autovacuum_analyze_scale_factor": 0.05,
    }
_CRASHED = ready.c.crashes > sa.literal_column("0")
sa.Index("ready_order", ready.c.priority.desc(), ready.c.ready_at, ready.c.task_id)
sa.Index("ready_oldest", ready.c.queue, ready.c.ready_at)
sa.Index(
    "ready_crashed",
    ready.c.crashes,
    ready.c.task_id,
    sqlite_where=_CRASHED,
    postgresql_where=_CRASHED,
)
sa.Index("timers_due", timers.c.due_at)


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
