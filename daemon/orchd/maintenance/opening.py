"""Opens a state for maintenance, and closes it again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from orchd.ledger.opening import open_ledger
from orchd.maintenance.reading import StateReader
from orchd.system import System
from orchd_eventstore import EventStore


@contextmanager
def reading(url: str, *, system: System) -> Iterator[StateReader]:
    """Lend a reader of the state, beside whoever writes it.

    Raises:
        StateError: what `open_ledger` raises.
    """
    ledger = open_ledger(url, system=system, access="read", create=False, migrate=False)
    try:
        yield StateReader(ledger.store, system, postgresql=ledger.dialect.is_postgresql)
    finally:
        ledger.close_blocking()


@contextmanager
def writing(url: str, *, system: System, create: bool = False) -> Iterator[EventStore]:
    """Lend the event store for writing; a SQLite state is locked meanwhile.

    Raises:
        StateLocked: a daemon has the SQLite state open.
        StateError: what else `open_ledger` raises.
    """
    ledger = open_ledger(url, system=system, access="write", create=create, migrate=create)
    try:
        yield ledger.store
    finally:
        ledger.close_blocking()
