"""The tables of tasks, queues, breakers and leases, beside those of the event store.

tasks     one row per task: the fold of its stream
queues    one row per queue that was ever paused
breakers  one row per breaker that ever opened
ready     derived: the pending tasks that wait for nothing
timers    derived: the pending tasks that wait for an instant
running   derived: the tasks in progress, by worker
aside     derived: the tasks that nothing moves by itself, but for those that completed
workers   the leases of daemons; rows, not events
limits    one row per queue with a limit, to be locked while its tasks are counted

The migrations create all of this for real databases; `orchd.ledger.creation` declares
what goes with it.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.sql.type_api import TypeEngine

from orchd.interfaces import TaskStatus
from orchd.tasks.state import IMMUTABLE_FIELDS, TERMINAL, Phase
from orchd_eventstore import Projection

metadata = sa.MetaData()


def _name() -> TypeEngine[str]:
    # Names and ids are compared byte by byte on either database, so that both list and
    # claim in the same order.
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


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

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("id", _name(), primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("namespace", _name(), nullable=False),
    sa.Column("status", _name(), nullable=False),
    sa.Column("phase", _name(), nullable=False),
    sa.Column("queue", _name(), nullable=False),
    sa.Column("priority", sa.BigInteger, nullable=False),
    sa.Column("lane", _name()),
    sa.Column("executor", _name(), nullable=False),
    sa.Column("verifiers", sa.Text, nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("description_blob", _name()),
    sa.Column("payload", sa.Text),
    sa.Column("payload_blob", _name()),
    sa.Column("metadata", sa.Text),
    sa.Column("labels", sa.Text),
    sa.Column("parent_id", _name()),
    sa.Column("idempotency_key", _name()),
    sa.Column("body_hash", _name(), nullable=False),
    sa.Column("traceparent", sa.Text),
    sa.Column("max_attempts", sa.BigInteger, nullable=False),
    sa.Column("execute_timeout_seconds", sa.Double),
    sa.Column("verify_timeout_seconds", sa.Double),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("run_at", sa.BigInteger, nullable=False),
    sa.Column("waiting_reason", _name()),
    sa.Column("waiting_until", sa.BigInteger),
    sa.Column("waiting_ref", sa.Text),
    sa.Column("round", sa.BigInteger, nullable=False),
    sa.Column("runs", sa.BigInteger, nullable=False),
    sa.Column("attempts", sa.BigInteger, nullable=False),
    sa.Column("crashes", sa.BigInteger, nullable=False),
    sa.Column("deferrals", sa.BigInteger, nullable=False),
    sa.Column("verify_errors", sa.BigInteger, nullable=False),
    sa.Column("passed_verifiers", sa.Text, nullable=False),
    sa.Column("token", sa.BigInteger),
    sa.Column("worker", _name()),
    sa.Column("alone", sa.Boolean, nullable=False),
    sa.Column("started_at", sa.BigInteger),
    sa.Column("deadline", sa.BigInteger),
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    sa.Column("result", sa.Text),
    sa.Column("result_blob", _name()),
    sa.Column("result_metadata", sa.Text),
    sa.Column("confidence", sa.Double),
    sa.Column("error", sa.Text),
    sa.Column("error_class", _name()),
    sa.Column("fingerprint", _name()),
    sa.Column("feedback", sa.Text),
    sa.Column("finished_at", sa.BigInteger),
    *(
        sa.CheckConstraint(rule, name=f"tasks_{name}_check")
        for name, rule in _TASK_RULES.items()
    ),
)

queues = sa.Table(
    "queues",
    metadata,
    sa.Column("name", _name(), primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("paused", sa.Boolean, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("changed_at", sa.BigInteger, nullable=False),
    sa.CheckConstraint("version >= 1", name="queues_version_check"),
)

breakers = sa.Table(
    "breakers",
    metadata,
    sa.Column("name", _name(), primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("position", _name(), nullable=False),
    sa.Column("failures", sa.BigInteger, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("until", sa.BigInteger),
    sa.Column("worker", _name()),
    sa.Column("changed_at", sa.BigInteger, nullable=False),
    sa.CheckConstraint("version >= 1", name="breakers_version_check"),
    sa.CheckConstraint(
        "(position = 'closed' AND until IS NULL AND worker IS NULL)"
        " OR (position = 'open' AND until IS NOT NULL AND worker IS NULL)"
        " OR (position = 'half_open' AND until IS NOT NULL AND worker IS NOT NULL)",
        name="breakers_position_check",
    ),
)


def _derived(name: str, instant: str) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        sa.Column("task_id", _name(), primary_key=True),
        sa.Column("queue", _name(), nullable=False),
        sa.Column("executor", _name(), nullable=False),
        sa.Column("verifiers", sa.Text, nullable=False),
        sa.Column("phase", _name(), nullable=False),
        sa.Column("priority", sa.BigInteger, nullable=False),
        sa.Column("crashes", sa.BigInteger, nullable=False),
        sa.Column(instant, sa.BigInteger, nullable=False),
    )


ready = _derived("ready", "ready_at")
timers = _derived("timers", "due_at")

running = sa.Table(
    "running",
    metadata,
    sa.Column("task_id", _name(), primary_key=True),
    sa.Column("worker", _name(), nullable=False),
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
)

aside = sa.Table(
    "aside",
    metadata,
    sa.Column("task_id", _name(), primary_key=True),
    sa.Column("status", _name(), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("id", _name(), primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("boot_id", sa.Text, nullable=False),
    sa.Column("pid", sa.BigInteger, nullable=False),
    sa.Column("process_start", sa.BigInteger),
    sa.Column("executors", sa.Text, nullable=False),
    sa.Column("verifiers", sa.Text, nullable=False),
    sa.Column("release", sa.Text, nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("renewed_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("fenced", sa.Boolean, nullable=False),
    sa.CheckConstraint("expires_at >= renewed_at", name="workers_lease_check"),
)

limits = sa.Table("limits", metadata, sa.Column("name", _name(), primary_key=True))

_ENDED = (
    "version",
    "status",
    "updated_at",
    "token",
    "worker",
    "started_at",
    "deadline",
    "passed_verifiers",
    "result",
    "result_blob",
    "result_metadata",
    "confidence",
    "finished_at",
)
"""What the completion of a task that ran well at its first attempt changes."""

PROJECTIONS = (
    Projection(
        "tasks", tasks, key="id", immutable=IMMUTABLE_FIELDS - {"id"}, narrow=_ENDED
    ),
    Projection("queues", queues, key="name"),
    Projection("breakers", breakers, key="name"),
)
"""What the event store writes along with events. The function that appends on PostgreSQL
is made for exactly these, in this order."""
