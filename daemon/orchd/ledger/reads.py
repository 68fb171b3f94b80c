"""What can be read without writing: tasks, queues, breakers, timers, work to do."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from orchd.breakers import BreakerState
from orchd.interfaces import TaskStatus
from orchd.ledger.claims import served_queues
from orchd.ledger.dialects import Dialect
from orchd.ledger.leases import POSTGRESQL_NOW, SELECT_WORKERS, worker_view
from orchd.ledger.listing import TaskQuery
from orchd.ledger.port import (
    Census,
    Look,
    Outcome,
    QueueView,
    SubmitTask,
    TaskFilter,
    TaskPage,
    WorkerView,
)
from orchd.ledger.rows import (
    BREAKER_COLUMNS,
    QUEUE_COLUMNS,
    TASK_COLUMNS,
    breaker_state,
    columns,
    names_text,
    queue_state,
    task_state,
)
from orchd.ledger.submissions import Taken, lookups
from orchd.queues import QueueState
from orchd.tasks.state import TaskState
from orchd_eventstore import EventStore

_Instant = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_TASK = f"SELECT {columns(TASK_COLUMNS)} FROM tasks"
_HELD = (
    f"SELECT {columns(TASK_COLUMNS, 't')} FROM running AS r JOIN tasks AS t"
    " ON t.id = r.task_id WHERE r.worker = ? ORDER BY r.task_id LIMIT ?"
)
_CANCELLED = (
    "SELECT task_id FROM running WHERE cancel_requested AND worker = ? ORDER BY task_id"
)
# In the order of claims: what was claimed just now stays in the index for a while, and the
# claims have walked over it already.
_FIRST_READY = "SELECT task_id FROM ready ORDER BY priority DESC, ready_at, task_id LIMIT 1"
_LOOK = (
    "SELECT {now}, position, (SELECT min(due_at) FROM timers),"
    f" ({_FIRST_READY}) IS NOT NULL FROM log_head"
)
_LOOK_POSTGRESQL, _LOOK_SQLITE = (_LOOK.format(now=now) for now in (POSTGRESQL_NOW, "?"))
_BREAKERS = f"SELECT {columns(BREAKER_COLUMNS)} FROM breakers ORDER BY name"
_QUEUES = f"SELECT {columns(QUEUE_COLUMNS)} FROM queues ORDER BY name"
_COUNTERS = "SELECT name, value FROM counters WHERE substr(name, 1, ?) = ?"
_OLDEST = "SELECT min(ready_at) FROM ready WHERE queue = ?"
_RUNNING = "SELECT 1 FROM running LIMIT 1"
_WAITING = (
    "SELECT 1 FROM {table} AS r WHERE (r.phase = 'execute' AND r.executor = ANY(?)"
    " OR r.phase = 'verify' AND {verifiable})"
    " AND r.queue NOT IN (SELECT name FROM queues WHERE paused) AND {served} LIMIT 1"
)
_READY_FOR = (
    "SELECT 1 FROM ready AS r WHERE r.phase = 'execute' AND r.executor = ?"
    " AND r.queue NOT IN (SELECT name FROM queues WHERE paused) LIMIT 1"
)
_DUE_FOR = (
    "SELECT 1 FROM timers AS r WHERE r.phase = 'execute' AND r.executor = ?"
    " AND r.due_at <= ? AND r.queue NOT IN (SELECT name FROM queues WHERE paused) LIMIT 1"
)
_PROBE = (
    "SELECT 1 FROM running AS r JOIN tasks AS t ON t.id = r.task_id WHERE r.worker = ?"
    " AND t.executor = ? AND t.phase = 'execute' AND t.started_at >= ? LIMIT 1"
)


class Reads:
    """Queries on connections that only read; may be used by several threads."""

    def __init__(self, store: EventStore, dialect: Dialect) -> None:
        self._store = store
        self._dialect = dialect

    def _rows(self, text: str, *parameters: Any) -> Sequence[Sequence[Any]]:
        return self._rows_of((text, parameters))[0]

    def _rows_of(
        self, *statements: tuple[str, tuple[Any, ...]]
    ) -> list[Sequence[Sequence[Any]]]:
        with self._store.connect_reader() as connection:
            return [
                connection.execute(self._dialect.sql(text), parameters).fetchall()
                for text, parameters in statements
            ]

    # --- tasks ------------------------------------------------------------------------

    def task(self, task_id: str) -> TaskState | None:
        """Return a task, or None when there is no such id."""
        rows = self._rows(f"{_TASK} WHERE id = ?", task_id)
        return task_state(rows[0]) if rows else None

    def taken(self, requests: Sequence[SubmitTask]) -> list[Outcome | None]:
        """Return how submissions would end because of tasks that there are."""
        by_id, by_key = (
            self._rows(text, *parameters)
            for text, parameters in lookups(self._dialect, requests)
        )
        found = Taken(by_id, by_key)
        return [found.outcome(request) for request in requests]

    def tasks(self, wanted: TaskFilter, limit: int, cursor: str | None) -> TaskPage:
        """List tasks, newest first; `ValueError` for a cursor that none gave."""
        query = TaskQuery(self._dialect, wanted)
        if cursor is not None:
            query.continue_after(*_read_cursor(cursor))
        if query.counts_first:
            query.choose(self._rows(query.count)[0][0])
        rows = self._rows(*query.page(limit + 1))
        found = tuple(task_state(row) for row in rows[:limit])
        more = len(rows) > limit and found
        return TaskPage(tasks=found, next_cursor=_write_cursor(found[-1]) if more else None)

    def held_by(self, worker_id: str, limit: int) -> list[TaskState]:
        """Return tasks in progress of a worker."""
        return [task_state(row) for row in self._rows(_HELD, worker_id, limit)]

    def cancel_requests(self, worker_id: str) -> list[str]:
        """Return the ids of a worker's tasks that are to be cancelled."""
        return [row[0] for row in self._rows(_CANCELLED, worker_id)]

    # --- queues, breakers, workers ----------------------------------------------------

    def queues(self) -> list[QueueView]:
        """Return every queue that was ever named by a task or paused."""
        states = {state.name: state for state in map(queue_state, self._rows(_QUEUES))}
        depths = self._depths()
        return [
            self._queue_view(name, states.get(name), depths.get(name, {}))
            for name in sorted(states.keys() | depths.keys())
        ]

    def _queue_view(
        self, name: str, state: QueueState | None, depth: Mapping[str, int]
    ) -> QueueView:
        oldest = self._rows(_OLDEST, name)[0][0] if depth.get("pending") else None
        return QueueView(
            name=name,
            paused=state is not None and state.paused,
            reason="" if state is None else state.reason,
            depth={status.value: depth.get(status.value, 0) for status in TaskStatus},
            oldest_ready_at=oldest,
            version=0 if state is None else state.version,
            changed_at=None if state is None else state.changed_at,
        )

    def _counters(self, prefix: str) -> dict[str, int]:
        rows = self._rows(_COUNTERS, len(prefix), prefix)
        return {name.removeprefix(prefix): value for name, value in rows}

    def _depths(self) -> dict[str, dict[str, int]]:
        depths: dict[str, dict[str, int]] = {}
        for name, value in self._counters("queue/").items():
            queue, _, status = name.rpartition("/")
            depths.setdefault(queue, {})[status] = value
        return depths

    def event_counts(self) -> dict[str, int]:
        """Return event type -> number in the log."""
        return self._counters("events/")

    def breakers(self) -> list[BreakerState]:
        """Return every breaker that ever opened."""
        return [breaker_state(row) for row in self._rows(_BREAKERS)]

    def workers(self) -> list[WorkerView]:
        """Return the leases, oldest worker first."""
        return [worker_view(row) for row in self._rows(SELECT_WORKERS)]

    def census(self, worker_id: str, limit: int) -> Census:
        """Return the leases, and the tasks in progress of a worker."""
        workers, held = self._rows_of((SELECT_WORKERS, ()), (_HELD, (worker_id, limit)))
        return Census([*map(worker_view, workers)], [*map(task_state, held)])

    # --- work to do -------------------------------------------------------------------

    def look(self) -> Look:
        """Return the clock, the end of the log, and what there is to claim."""
        if self._dialect.is_postgresql:
            [row] = self._rows(_LOOK_POSTGRESQL)
        else:
            [row] = self._rows(_LOOK_SQLITE, self._store.now())
        now, position, next_due, is_any_ready = row
        return Look(now, position, next_due, bool(is_any_ready))

    def has_work(
        self, executors: Sequence[str], verifiers: Sequence[str], queues: Sequence[str]
    ) -> bool:
        """Tell whether anything can still go on without a person."""
        served, patterns = served_queues(self._dialect, queues)
        names = (self._dialect.array(executors), names_text(tuple(verifiers)))
        verifiable = self._dialect.subset("r.verifiers")
        waiting = (
            _WAITING.format(table=table, verifiable=verifiable, served=served)
            for table in ("ready", "timers")
        )
        parameters = (*names, *patterns)
        return self._finds_any((_RUNNING, *waiting), *parameters, *parameters)

    def _finds_any(self, searches: Iterable[str], *parameters: Any) -> bool:
        # In one statement: between two of them a task could move to where was looked first.
        found = " OR ".join(f"EXISTS ({search})" for search in searches)
        return bool(self._rows(f"SELECT 1 WHERE {found}", *parameters))

    def has_waiting(self, executor: str, now: int) -> bool:
        """Tell whether a task waits for nothing but this executor, breakers aside."""
        return self._finds_any((_READY_FOR, _DUE_FOR), executor, executor, now)

    def has_probe(self, breaker: BreakerState) -> bool:
        """Tell whether the worker of a half-open breaker executes a task as its probe."""
        # What it has started since is the probe; older runs began when claims flowed.
        since = (breaker.worker, breaker.name, breaker.changed_at)
        return bool(self._rows(_PROBE, *since))


def _write_cursor(state: TaskState) -> str:
    text = msgspec.json.encode((state.created_at, state.id))
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[int, str]:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True)
        created_at, task_id = msgspec.json.decode(text, type=tuple[_Instant, str])
        if "\0" in task_id:
            raise ValueError("no id holds NUL")
        return created_at, task_id
    except (binascii.Error, msgspec.DecodeError, ValueError) as error:
        raise ValueError(f"{cursor!r} is no cursor of a list of tasks") from error
