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
what goes with it, to SQLAlchemy, which nobody needs who only opens a state.
"""

from __future__ import annotations

from orchd.tasks.state import IMMUTABLE_FIELDS
from orchd_eventstore import Column, Kind, Projection, Table

NAME, TEXT, INTEGER = Kind.NAME, Kind.TEXT, Kind.INTEGER
NUMBER, FLAG = Kind.NUMBER, Kind.FLAG

TASKS = Table(
    "tasks",
    (
        Column("id", NAME),
        Column("version", INTEGER),
        Column("namespace", NAME),
        Column("status", NAME),
        Column("phase", NAME),
        Column("queue", NAME),
        Column("priority", INTEGER),
        Column("lane", NAME, is_optional=True),
        Column("executor", NAME),
        Column("verifiers", TEXT),
        Column("description", TEXT, is_optional=True),
        Column("description_blob", NAME, is_optional=True),
        Column("payload", TEXT, is_optional=True),
        Column("payload_blob", NAME, is_optional=True),
        Column("metadata", TEXT, is_optional=True),
        Column("labels", TEXT, is_optional=True),
        Column("parent_id", NAME, is_optional=True),
        Column("idempotency_key", NAME, is_optional=True),
        Column("body_hash", NAME),
        Column("traceparent", TEXT, is_optional=True),
        Column("max_attempts", INTEGER),
        Column("execute_timeout_seconds", NUMBER, is_optional=True),
        Column("verify_timeout_seconds", NUMBER, is_optional=True),
        Column("created_at", INTEGER),
        Column("updated_at", INTEGER),
        Column("run_at", INTEGER),
        Column("waiting_reason", NAME, is_optional=True),
        Column("waiting_until", INTEGER, is_optional=True),
        Column("waiting_ref", TEXT, is_optional=True),
        Column("round", INTEGER),
        Column("runs", INTEGER),
        Column("attempts", INTEGER),
        Column("crashes", INTEGER),
        Column("deferrals", INTEGER),
        Column("verify_errors", INTEGER),
        Column("passed_verifiers", TEXT),
        Column("token", INTEGER, is_optional=True),
        Column("worker", NAME, is_optional=True),
        Column("alone", FLAG),
        Column("started_at", INTEGER, is_optional=True),
        Column("deadline", INTEGER, is_optional=True),
        Column("cancel_requested", FLAG),
        Column("result", TEXT, is_optional=True),
        Column("result_blob", NAME, is_optional=True),
        Column("result_metadata", TEXT, is_optional=True),
        Column("confidence", NUMBER, is_optional=True),
        Column("error", TEXT, is_optional=True),
        Column("error_class", NAME, is_optional=True),
        Column("fingerprint", NAME, is_optional=True),
        Column("feedback", TEXT, is_optional=True),
        Column("finished_at", INTEGER, is_optional=True),
    ),
)
QUEUES = Table(
    "queues",
    (
        Column("name", NAME),
        Column("version", INTEGER),
        Column("paused", FLAG),
        Column("reason", TEXT),
        Column("actor", TEXT),
        Column("changed_at", INTEGER),
    ),
)
BREAKERS = Table(
    "breakers",
    (
        Column("name", NAME),
        Column("version", INTEGER),
        Column("position", NAME),
        Column("failures", INTEGER),
        Column("error", TEXT),
        Column("until", INTEGER, is_optional=True),
        Column("worker", NAME, is_optional=True),
        Column("changed_at", INTEGER),
    ),
)


def _waiting(name: str, instant: str) -> Table:
    return Table(
        name,
        (
            Column("task_id", NAME),
            Column("queue", NAME),
            Column("executor", NAME),
            Column("verifiers", TEXT),
            Column("phase", NAME),
            Column("priority", INTEGER),
            Column("crashes", INTEGER),
            Column(instant, INTEGER),
        ),
    )


READY = _waiting("ready", "ready_at")
TIMERS = _waiting("timers", "due_at")
RUNNING = Table(
    "running",
    (
        Column("task_id", NAME),
        Column("worker", NAME),
        Column("cancel_requested", FLAG),
    ),
)
ASIDE = Table(
    "aside",
    (
        Column("task_id", NAME),
        Column("status", NAME),
        Column("created_at", INTEGER),
    ),
)
WORKERS = Table(
    "workers",
    (
        Column("id", NAME),
        Column("host", TEXT),
        Column("boot_id", TEXT),
        Column("pid", INTEGER),
        Column("process_start", INTEGER, is_optional=True),
        Column("executors", TEXT),
        Column("verifiers", TEXT),
        Column("release", TEXT),
        Column("started_at", INTEGER),
        Column("renewed_at", INTEGER),
        Column("expires_at", INTEGER),
        Column("fenced", FLAG),
    ),
)
LIMITS = Table(
    "limits",
    (Column("name", NAME),),
)

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
    Projection("tasks", TASKS, immutable=IMMUTABLE_FIELDS - {"id"}, narrow=_ENDED),
    Projection("queues", QUEUES),
    Projection("breakers", BREAKERS),
)
"""What the event store writes along with events. The function that appends on PostgreSQL
is made for exactly these, in this order."""
