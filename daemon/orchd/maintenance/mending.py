"""Rewrites rows from the log, a page in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from orchd.ledger.dialects import Dialect
from orchd.ledger.rows import columns
from orchd.maintenance.counting import compare_counters, recount, stored_counters
from orchd.maintenance.derivation import READY_COLUMNS, TIMER_COLUMNS, derive
from orchd.maintenance.folding import TASKS, Expected, Kind, expect
from orchd.maintenance.opening import writing
from orchd.maintenance.reading import Snapshot
from orchd.system import System
from orchd_eventstore import EventStore, Transaction

_SET_COUNTER = (
    "INSERT INTO counters (name, value) VALUES (?, ?)"
    " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)
# Whoever holds the head is the only one who appends.
_LOCK_LOG = "SELECT position FROM log_head WHERE id = 1 FOR UPDATE"


class Mender:
    """Opens the state for writing when there is something to mend, and mends it."""

    def __init__(self, url: str, *, system: System) -> None:
        self._url = url
        self._system = system
        self._stack = ExitStack()
        self._store: EventStore | None = None

    def __enter__(self) -> Mender:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _open(self) -> EventStore:
        if self._store is None:
            self._store = self._stack.enter_context(writing(self._url, system=self._system))
        return self._store

    def mend_rows(self, kind: Kind, keys: Sequence[str]) -> None:
        """Make the rows of these streams what the log says."""
        store = self._open()
        with store.transaction() as transaction:
            view = _TransactionView(transaction)
            view.all(
                f"SELECT {kind.key} FROM {kind.table} WHERE {kind.key} = ANY(?)"
                f" ORDER BY {kind.key} FOR UPDATE",
                (view.dialect.array(keys),),
            )
            page = view.page(kind, keys)
            for key in keys:
                expected = expect(kind, key, page.histories[key])
                _write(view, kind, key, key in page.stored, expected)
            transaction.commit()

    def mend_counters(self) -> None:
        """Make the counters what the tables say."""
        store = self._open()
        with store.transaction() as transaction:
            view = _TransactionView(transaction)
            view.all(_LOCK_LOG)
            for wrong in compare_counters(stored_counters(view), recount(view)):
                view.all(_SET_COUNTER, (wrong.row, wrong.expected))
            transaction.commit()


class _TransactionView(Snapshot):
    """Reads, and writes, within a transaction."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self.dialect = Dialect("sqlite" if transaction.placeholder == "?" else "postgresql")

    def all(self, text: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run a statement written as `orchd.ledger.dialects` says."""
        return self._transaction.execute(self.dialect.sql(text), parameters)


def _write(
    view: _TransactionView, kind: Kind, key: str, exists: bool, expected: Expected
) -> None:
    row = expected.row
    if row is None:
        view.all(f"DELETE FROM {kind.table} WHERE {kind.key} = ?", (key,))
    elif exists:
        changes = ", ".join(f'"{name}" = ?' for name in row)
        text = f"UPDATE {kind.table} SET {changes} WHERE {kind.key} = ?"
        view.all(text, (*row.values(), key))
    else:
        _insert(view, kind.table, row)
    if kind is TASKS:
        _write_derived(view, key, expected)


def _write_derived(view: _TransactionView, task_id: str, expected: Expected) -> None:
    # The triggers have put in what they could; here the rows become exactly what follows.
    for table in ("timers", "ready"):
        view.all(f"DELETE FROM {table} WHERE task_id = ?", (task_id,))
    wanted = derive(expected)
    if wanted.ready is not None:
        _insert(view, "ready", {name: wanted.ready[name] for name in READY_COLUMNS})
    if wanted.timer is not None:
        _insert(view, "timers", {name: wanted.timer[name] for name in TIMER_COLUMNS})


def _insert(view: _TransactionView, table: str, row: dict[str, Any]) -> None:
    marks = ", ".join("?" * len(row))
    text = f"INSERT INTO {table} ({columns(tuple(row))}) VALUES ({marks})"
    view.all(text, tuple(row.values()))
