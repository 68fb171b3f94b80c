"""The indexes of the tables, their options, and the creation of it all.

`orchd.ledger.derived` holds the triggers that keep `ready` and `timers`, and
`orchd.ledger.claim_function` the function that claims on PostgreSQL. No daemon imports
this: what it declares is what the migrations have to build, and needs the dialects of both
databases, 3 MB.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from orchd.ledger.claim_function import CLAIM_FUNCTION, claim_ddl
from orchd.ledger.derived import derived_ddl
from orchd.ledger.schema import (
    PROJECTIONS,
    aside,
    metadata,
    ready,
    running,
    tasks,
    timers,
)
from orchd_eventstore import creation
from orchd_eventstore import schema as store_schema


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
