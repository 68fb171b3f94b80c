"""The leases of workers: rows by the database's clock, never events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from orchd.ledger.dialects import Dialect
from orchd.ledger.port import WorkerView
from orchd.ledger.rows import Row, columns, names_of, names_text
from orchd.system import MICROSECONDS_PER_SECOND

WORKER_COLUMNS = WorkerView.__struct_fields__
Execute = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]

POSTGRESQL_NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

_REGISTER = f"""\
INSERT INTO workers ({columns(WORKER_COLUMNS)})
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, {{now}}, {{now}} + ?, FALSE)
ON CONFLICT (id) DO UPDATE SET executors = excluded.executors,
  verifiers = excluded.verifiers, renewed_at = excluded.renewed_at,
  expires_at = excluded.expires_at
WHERE NOT workers.fenced"""
_ADVERTISE = (
    "UPDATE workers SET executors = ?, verifiers = ?"
    " WHERE id = ? AND NOT fenced RETURNING 1"
)
_RENEW = (
    "UPDATE workers SET renewed_at = {now}, expires_at = {now} + ?"
    " WHERE id = ? AND NOT fenced RETURNING 1"
)
_FENCE = "UPDATE workers SET fenced = TRUE WHERE id = ? RETURNING 1"
_FENCE_EXPIRED = (
    "UPDATE workers SET fenced = TRUE"
    " WHERE id = ? AND (fenced OR expires_at <= {now}) RETURNING 1"
)
_RETIRE = (
    "DELETE FROM workers WHERE id = ? AND NOT EXISTS"
    " (SELECT 1 FROM running WHERE worker = workers.id)"
)
# Whoever holds tasks is looked up one after the other along the key of `running`: there may
# be ten thousand tasks, but there are few workers.
SELECT_WORKERS = f"""\
WITH RECURSIVE holders(id) AS (
  SELECT min(worker) FROM running
  UNION ALL
  SELECT (SELECT min(worker) FROM running WHERE worker > h.id)
  FROM holders AS h WHERE h.id IS NOT NULL
)
SELECT {columns(WORKER_COLUMNS)} FROM workers
UNION ALL
SELECT h.id, '', '', 0, NULL, '[]', '[]', '', 0, 0, 0, TRUE FROM holders AS h
WHERE h.id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM workers AS w WHERE w.id = h.id)
ORDER BY started_at, id"""
"""The leases, and as fenced those who hold tasks without one: after a restore, or when
somebody deleted the row, nobody else would take the tasks from them."""


class Leases:
    """Writes the rows of workers.

    Args:
        execute: runs one statement in a transaction of its own and returns its rows.
        now: the database's clock where SQL does not have it.
    """

    def __init__(self, dialect: Dialect, execute: Execute, now: Callable[[], int]) -> None:
        self._dialect = dialect
        self._execute_one = execute
        self._now = now

    def _execute(self, text: str, *parameters: Any) -> list[tuple[Any, ...]]:
        now = POSTGRESQL_NOW if self._dialect.is_postgresql else str(self._now())
        return self._execute_one(self._dialect.sql(text.format(now=now)), parameters)

    def register(self, worker: WorkerView, lease_seconds: float) -> None:
        """Write the worker's row; once more, should the first answer have been lost."""
        self._execute(
            _REGISTER,
            worker.id,
            worker.host,
            worker.boot_id,
            worker.pid,
            worker.process_start,
            names_text(worker.executors),
            names_text(worker.verifiers),
            worker.release,
            worker.started_at,
            _span(lease_seconds),
        )

    def advertise(
        self, worker_id: str, executors: Sequence[str], verifiers: Sequence[str]
    ) -> bool:
        """Write what a worker can do; False when it was fenced or has no row."""
        names = (names_text(executors), names_text(verifiers))
        return bool(self._execute(_ADVERTISE, *names, worker_id))

    def renew(self, worker_id: str, lease_seconds: float) -> bool:
        """Extend a lease; False when the worker was fenced or has no row."""
        return bool(self._execute(_RENEW, _span(lease_seconds), worker_id))

    def retire(self, worker_id: str) -> None:
        """Remove the row of a worker, unless it holds a task."""
        self._execute(_RETIRE, worker_id)

    def fence(self, worker_id: str, *, only_if_expired: bool) -> bool:
        """Fence a worker; True when it is fenced now."""
        statement = _FENCE_EXPIRED if only_if_expired else _FENCE
        return bool(self._execute(statement, worker_id))


def _span(seconds: float) -> int:
    return round(seconds * MICROSECONDS_PER_SECOND)


def worker_view(row: Row) -> WorkerView:
    """Return the view of a row with `WORKER_COLUMNS`."""
    values = dict(zip(WORKER_COLUMNS, row, strict=True))
    values["executors"] = names_of(values["executors"])
    values["verifiers"] = names_of(values["verifiers"])
    values["fenced"] = bool(values["fenced"])
    return WorkerView(**values)
