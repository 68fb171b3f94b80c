"""Makes rows what the log says, beside daemons that go on writing.

On PostgreSQL nothing is locked while this process thinks: what is wrong is read in a
snapshot, and each repair is one statement, and a transaction, of its own, on the condition
that its row still is what was read. So a mender that is stopped in the middle holds nobody
up, and one that was overtaken changes nothing. Then it is read again, until nothing
differs. On SQLite whoever mends is the only writer, and one transaction holds all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Protocol

import msgspec

from orchd.ledger.dialects import POSTGRESQL, SQLITE, Statement
from orchd.ledger.rows import columns
from orchd.maintenance.counting import MENDINGS_COUNTER, CounterErrors, find_counter_errors
from orchd.maintenance.derivation import COPIED, derive
from orchd.maintenance.examining import compare_page
from orchd.maintenance.folding import KINDS, TASKS, Expected, Kind, expect
from orchd.maintenance.opening import writing
from orchd.maintenance.reading import Page, StateReader, TransactionView
from orchd.system import System
from orchd_eventstore import (
    BatchRejected,
    EventStore,
    StoreUnavailable,
    Transaction,
)
from orchd_eventstore.errors import translated

LOOKS_MAX = 6
"""How often some rows are read, and what is still wrong with them repaired: the first
repair may set off triggers, and daemons move rows meanwhile."""

_UNIQUE_VIOLATION = "23505"
_UNMOVED = "version = ? AND ? = (SELECT max(version) FROM events WHERE stream = ?)"
_NO_STREAM = "NOT EXISTS (SELECT 1 FROM events WHERE stream = ?)"
_LOCKED_TASK = "FROM tasks AS t WHERE t.id = ? AND t.version = ? FOR UPDATE"


class Mender(Protocol):
    """Whoever may write to the state: this process, or the daemon that has it open."""

    def mend_rows(self, kind: Kind, keys: Sequence[str]) -> list[str]:
        """Make rows what the log says; return the keys of those that still differ."""
        ...

    def mend_counters(self) -> None:
        """Make the counters what the tables say."""
        ...


class OwnMender:
    """Mends with this process's own hands; opens the state for it when it has to."""

    def __init__(self, url: str, *, system: System) -> None:
        self._url = url
        self._system = system
        self._stack = ExitStack()
        self._store: EventStore | None = None

    def __enter__(self) -> OwnMender:
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

    def mend_rows(self, kind: Kind, keys: Sequence[str]) -> list[str]:
        """See `Mender.mend_rows`; `StateLocked` when a daemon has the SQLite state."""
        return mend_rows(self._open(), self._system, kind, keys)

    def mend_counters(self) -> None:
        """See `Mender.mend_counters`."""
        mend_counters(self._open(), self._system)


def kind_named(table: str) -> Kind | None:
    """Return the kind of the rows in a table, if they have a stream."""
    return next((kind for kind in KINDS if kind.table == table), None)


# --- rows -----------------------------------------------------------------------------


def mend_rows(
    store: EventStore, system: System, kind: Kind, keys: Sequence[str]
) -> list[str]:
    """Make rows, and what is derived from them, what the log says.

    Returns:
        The keys of rows that could not be mended now: something else holds a value that
        must be unique, or daemons moved them faster than they could be read.

    Raises:
        UnreadableStream: a stream holds what cannot be folded.
        StoreUnavailable: the database does not answer.
    """
    left = list(keys)
    for _ in range(LOOKS_MAX):
        with _hand(store, system) as hand:
            page = hand.look(kind, left)
            found = compare_page(page, store.now)
            if found is None:
                return []
            left = list(found.keys)
            hand.write([step for key in left for step in _repairs(page, key, store.now)])
    return left


def _repairs(page: Page, key: str, clock: Callable[[], int]) -> Iterator[Statement]:
    """Yield what brings a row, or once it is right what is derived from it, nearer."""
    kind, stored = page.kind, page.stored.get(key)
    expected = expect(kind, key, page.histories[key])
    if stored is None and expected.row is not None:
        yield _insertion(kind, expected.row)
    elif stored is not None and expected.row is None:
        text = f"DELETE FROM {kind.table} WHERE {kind.key} = ? AND version = ?"
        yield f"{text} AND {_NO_STREAM}", (key, stored["version"], kind.prefix + key)
    elif stored != expected.row and stored is not None and expected.row is not None:
        yield _update(kind, key, stored, expected.row)
    elif kind is TASKS:
        yield from _derived_repairs(key, expected)


def _insertion(kind: Kind, row: Mapping[str, Any]) -> Statement:
    # Nobody else makes this row: an append finds its stream begun, or its row missing.
    marks = ", ".join("?" * len(row))
    return (
        f"INSERT INTO {kind.table} ({columns(tuple(row))}) VALUES ({marks})"
        " ON CONFLICT DO NOTHING",
        tuple(row.values()),
    )


def _update(
    kind: Kind, key: str, stored: Mapping[str, Any], row: Mapping[str, Any]
) -> Statement:
    changes = ", ".join(f'"{name}" = ?' for name in row)
    condition = (key, stored["version"], row["version"], kind.prefix + key)
    return (
        f"UPDATE {kind.table} SET {changes} WHERE {kind.key} = ? AND {_UNMOVED}",
        (*row.values(), *condition),
    )


def _derived_repairs(key: str, expected: Expected) -> Iterator[Statement]:
    """Yield what makes the derived tables right for a task whose row is.

    Each statement takes the task's lock and is carried out only if the task has not
    moved. What is missing is put in before what is too much is taken away, so that
    a task that could be claimed can be found at every moment.
    """
    if expected.row is None:
        for table in ("ready", "timers", "running", "aside"):
            yield (
                f"DELETE FROM {table} WHERE task_id = ?"
                " AND NOT EXISTS (SELECT 1 FROM tasks WHERE id = ?)",
                (key, key),
            )
        return
    task = (key, expected.row["version"])
    wanted = derive(expected)
    if wanted.ready is not None:
        yield _upsert("ready", "ready_at", wanted.ready["ready_at"], task)
        yield _removal("timers", task)
    elif wanted.timer is not None:
        yield _upsert("timers", "due_at", wanted.timer["due_at"], task)
        # A timer that is being promoted at this moment must not lose both rows.
        only = " AND EXISTS (SELECT 1 FROM timers WHERE task_id = ? FOR UPDATE)"
        text, parameters = _removal("ready", task)
        yield text + only, (*parameters, key)
    else:
        yield _removal("ready", task)
        yield _removal("timers", task)
    yield _listing_repair("running", wanted.running, task)
    yield _listing_repair("aside", wanted.aside, task)


def _listing_repair(
    table: str, wanted: Mapping[str, Any] | None, task: tuple[str, int]
) -> Statement:
    if wanted is None:
        return _removal(table, task)
    sources = ", ".join(f"t.{'id' if name == 'task_id' else name}" for name in wanted)
    changes = ", ".join(f"{name} = excluded.{name}" for name in wanted)
    return (
        f"INSERT INTO {table} ({', '.join(wanted)}) SELECT {sources} {_LOCKED_TASK}"
        f" ON CONFLICT (task_id) DO UPDATE SET {changes}",
        task,
    )


def _upsert(table: str, column: str, instant: int, task: tuple[str, int]) -> Statement:
    changes = ", ".join(f"{name} = excluded.{name}" for name in (*COPIED, column))
    copied = ", ".join(f"t.{name}" for name in COPIED)
    return (
        f"INSERT INTO {table} (task_id, {', '.join(COPIED)}, {column})"
        f" SELECT t.id, {copied}, CAST(? AS BIGINT) {_LOCKED_TASK}"
        f" ON CONFLICT (task_id) DO UPDATE SET {changes}",
        (instant, *task),
    )


def _removal(table: str, task: tuple[str, int]) -> Statement:
    text = f"DELETE FROM {table} WHERE task_id = ? AND EXISTS (SELECT 1 {_LOCKED_TASK})"
    return text, (task[0], *task)


# --- counters -------------------------------------------------------------------------

_GUARD = "UPDATE counters SET value = value + 1 WHERE name = ? AND value = ? RETURNING name"
_GUARD_EXISTS = "INSERT INTO counters (name, value) VALUES (?, 0) ON CONFLICT DO NOTHING"
_ADD = (
    "INSERT INTO counters (name, value) VALUES (?, ?)"
    " ON CONFLICT (name) DO UPDATE SET value = counters.value + excluded.value"
)
# One statement, so that a frozen client cannot hold the head that it takes first.
_ADD_ALL = """\
WITH head AS MATERIALIZED (SELECT id FROM log_head WHERE id = 1 FOR UPDATE),
guard AS (
  UPDATE counters SET value = counters.value + 1 FROM head
  WHERE name = ? AND value = ? RETURNING name
)
INSERT INTO counters (name, value)
SELECT r.name, r.delta FROM json_to_recordset(?::json) AS r(name text, delta bigint), guard
ORDER BY r.name
ON CONFLICT (name) DO UPDATE SET value = counters.value + excluded.value"""


def mend_counters(store: EventStore, system: System) -> None:
    """Add to each counter what it lacks, unless somebody else mended them meanwhile."""
    for _ in range(LOOKS_MAX):
        errors = find_counter_errors(_reader(store, system))
        if not errors.differences:
            return
        with _hand(store, system) as hand:
            hand.write([(_GUARD_EXISTS, (MENDINGS_COUNTER,))])
            hand.add(errors)


# --- hands ----------------------------------------------------------------------------


class _Hand(Protocol):
    """Reads and writes in the way of one database."""

    def look(self, kind: Kind, keys: Sequence[str]) -> Page: ...

    def write(self, statements: Sequence[Statement]) -> None: ...

    def add(self, errors: CounterErrors) -> None: ...


@contextmanager
def _hand(store: EventStore, system: System) -> Iterator[_Hand]:
    if not _is_sqlite(store):
        yield _PostgresHand(store, system)
        return
    with store.transaction() as transaction:
        yield _SqliteHand(transaction)
        transaction.commit()


def _is_sqlite(store: EventStore) -> bool:
    return store.placeholder == "?"


def _reader(store: EventStore, system: System) -> StateReader:
    return StateReader(store, system, postgresql=not _is_sqlite(store))


class _SqliteHand:
    """One transaction of the only writer."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def look(self, kind: Kind, keys: Sequence[str]) -> Page:
        return TransactionView(self._transaction).page(kind, keys)

    def write(self, statements: Sequence[Statement]) -> None:
        for text, parameters in statements:
            self._transaction.execute("SAVEPOINT repair")
            try:
                self._transaction.execute(SQLITE.sql(text), parameters)
            except BatchRejected as rejected:
                _require_taken(rejected)
                self._transaction.execute("ROLLBACK TO repair")
            self._transaction.execute("RELEASE repair")

    def add(self, errors: CounterErrors) -> None:
        if self._transaction.execute(_GUARD, (MENDINGS_COUNTER, errors.mendings)):
            self.write([(_ADD, delta) for delta in _deltas(errors)])


class _PostgresHand:
    """Statements that are transactions of their own, on a connection of the pool."""

    def __init__(self, store: EventStore, system: System) -> None:
        self._store = store
        self._reader = _reader(store, system)

    def look(self, kind: Kind, keys: Sequence[str]) -> Page:
        return self._reader.patiently(lambda: self._reader.page(kind, keys))

    def write(self, statements: Sequence[Statement]) -> None:
        if not statements:
            return
        *early, last = statements
        with self._store.connect_reader() as connection:
            # What is on disk with the last one is whatever came before it, too.
            connection.execute("SET synchronous_commit = off")
            try:
                for statement in early:
                    _tolerate(connection, statement)
            finally:
                connection.execute("SET synchronous_commit = on")
            _tolerate(connection, last)

    def add(self, errors: CounterErrors) -> None:
        deltas = [{"name": name, "delta": delta} for name, delta in _deltas(errors)]
        text = msgspec.json.encode(deltas).decode()
        self.write([(_ADD_ALL, (MENDINGS_COUNTER, errors.mendings, text))])


def _tolerate(connection: Any, statement: Statement) -> None:
    """Carry out a repair; one that cannot be made now is looked at again later."""
    text, parameters = statement
    try:
        with translated():
            connection.execute(POSTGRESQL.sql(text), tuple(parameters))
    except BatchRejected as rejected:
        _require_taken(rejected)
    except StoreUnavailable:
        # Somebody held the row for longer than a statement waits.
        if connection.closed:
            raise


def _require_taken(rejected: BatchRejected) -> None:
    """Go on only if a value of the row is another row's, as long as that is wrong too."""
    sql_state = getattr(rejected.__cause__, "sqlstate", None)
    if sql_state != _UNIQUE_VIOLATION and "UNIQUE" not in rejected.reason:
        raise rejected


def _deltas(errors: CounterErrors) -> list[tuple[str, int]]:
    return [(one.row, one.expected - one.stored) for one in errors.differences]
