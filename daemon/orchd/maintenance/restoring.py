"""Writes the log of a checkpoint into an empty database, as it was."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from orchd.ledger.dialects import POSTGRESQL, SQLITE
from orchd.maintenance.checkpoint_file import CheckpointReader, Manifest
from orchd.maintenance.progress import Progress
from orchd_eventstore import EventStore, Transaction
from orchd_eventstore.schema import EPOCH, instant_text

PAGE_ROWS = 500

_EVENT = (
    "INSERT INTO events (position, stream, version, type, data, meta, recorded_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_COMMIT = (
    "INSERT INTO commits (last_position, command_id, events, recorded_at, hash, rules)"
    " VALUES (?, ?, ?, ?, ?, ?)"
)
_BLOB = "INSERT INTO blobs (hash, size, encoding, body) VALUES (?, ?, ?, ?)"
_HEAD = "UPDATE log_head SET position = ?, hash = ?, recorded_at = ? WHERE id = 1"


def fill(
    store: EventStore, source: CheckpointReader, manifest: Manifest, progress: Progress
) -> None:
    """Copy events, commits and blobs with their times and hashes, all or nothing."""
    with store.transaction() as transaction:
        target = _Target(transaction)
        reached, recorded_at = 0, None
        for commit in source.commits():
            target.add(_COMMIT, (*commit[:3], target.instant(commit[3]), *commit[4:]))
            for event in source.events(reached, commit[0]):
                fields = (event.position, event.stream, event.version, event.type)
                instant = target.instant(event.recorded_at)
                target.add(_EVENT, (*fields, event.data, event.meta, instant))
            reached, recorded_at = commit[0], commit[3]
            if target.was_flushed:
                progress("restoring", reached, manifest.position)
        for blob in source.blobs():
            target.add(_BLOB, blob)
        if recorded_at is not None:
            head = (manifest.position, manifest.hash, target.instant(recorded_at))
            target.add(_HEAD, head)
        target.flush()
        transaction.commit()


class _Target:
    """A transaction that statements travel to in groups."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._is_sqlite = transaction.placeholder == "?"
        self._dialect = SQLITE if self._is_sqlite else POSTGRESQL
        self._waiting: list[tuple[str, Sequence[Any]]] = []

    @property
    def was_flushed(self) -> bool:
        """Whether nothing waits at this moment."""
        return not self._waiting

    def instant(self, microseconds: int) -> Any:
        """Return an instant as the database's column takes it."""
        if self._is_sqlite:
            return instant_text(microseconds)
        return EPOCH + timedelta(microseconds=microseconds)

    def add(self, text: str, parameters: Sequence[Any]) -> None:
        """Execute a statement soon, in order."""
        self._waiting.append((self._dialect.sql(text), parameters))
        if len(self._waiting) >= PAGE_ROWS:
            self.flush()

    def flush(self) -> None:
        """Execute what waits."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._transaction.execute_all(waiting)
