"""The write transaction of a SQLite store: reads and appends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from msgspec.structs import astuple

from orchd_eventstore.backend import (
    COMMIT_EVENTS,
    COMMIT_RANGE,
    PRODUCED,
    Producer,
    changes_of,
    halves,
    joined,
    resolved,
)
from orchd_eventstore.chain import CURRENT_RULES, commit_hash
from orchd_eventstore.errors import BatchRejected, rejecting, translated
from orchd_eventstore.events import (
    ANY_VERSION,
    Append,
    Appended,
    Blob,
    Commit,
    Conflict,
    Outcome,
    RecordedEvent,
    Rejected,
)
from orchd_eventstore.instants import instant_of, instant_text
from orchd_eventstore.sqlite_rows import (
    RowWriter,
    insert_all,
    require_no_nul,
    written_rows,
)


class SqliteTransaction:
    """The write transaction of a `SqliteBackend`."""

    def __init__(
        self,
        connection: Any,
        writers: dict[str, RowWriter],
        clock: Callable[[], int],
    ) -> None:
        self._connection = connection
        self._writers = writers
        self._clock = clock

    def execute(
        self, statement: str, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        with translated():
            rows: list[tuple[Any, ...]] = self._connection.execute(
                statement, tuple(parameters)
            ).fetchall()
            return rows

    def execute_all(
        self, statements: Sequence[tuple[str, Sequence[Any]]]
    ) -> list[list[tuple[Any, ...]]]:
        return [self.execute(statement, parameters) for statement, parameters in statements]

    def commit(self) -> None:
        with translated(at_commit=True):
            self._connection.execute("COMMIT")

    def append(
        self,
        items: Sequence[Append],
        command_id: str,
        blobs: Sequence[Blob],
        producer: Producer | None,
    ) -> Commit:
        commit = self._repeated(items, command_id)
        if commit is None:
            commit = self._append_whole(items, command_id, blobs, producer)
        self.commit()
        return commit

    def _repeated(self, items: Sequence[Append], command_id: str) -> Commit | None:
        found = self.execute(COMMIT_RANGE.format(at="recorded_at", mark="?"), (command_id,))
        if not found:
            return None
        first, last, recorded_at = found[0]
        rows = self.execute(COMMIT_EVENTS.format(mark="?"), (first, last))
        return resolved(items, command_id, _instant(recorded_at), rows)

    def _append_whole(
        self,
        items: Sequence[Append],
        command_id: str,
        blobs: Sequence[Blob],
        producer: Producer | None,
    ) -> Commit:
        """Append a batch, or what of it the database will store.

        There is no savepoint around a batch that is stored as a whole, which is nearly
        every one: within one SQLite keeps all pages as they were, and goes through the
        list of them with every further statement. What was read before is read under the
        same conditions again: each row is written only if its version is the expected one.
        """
        try:
            with translated(), rejecting():
                return self._store(items, command_id, blobs, producer)
        except BatchRejected as rejected:
            self.execute("ROLLBACK")
            self.execute("BEGIN IMMEDIATE")
            return self._bisect(items, command_id, blobs, producer, rejected)

    def _append_part(
        self,
        items: Sequence[Append],
        command_id: str,
        blobs: Sequence[Blob],
        producer: Producer | None,
    ) -> Commit:
        """Append a part of a batch that is not stored as a whole."""
        commit = self._repeated(items, command_id)
        if commit is not None:
            return commit
        self.execute("SAVEPOINT batch")
        try:
            with translated(), rejecting():
                commit = self._store(items, command_id, blobs, producer)
        except BatchRejected as rejected:
            self.execute("ROLLBACK TO batch")
            return self._bisect(items, command_id, blobs, producer, rejected)
        self.execute("RELEASE batch")
        return commit

    def _bisect(
        self,
        items: Sequence[Append],
        command_id: str,
        blobs: Sequence[Blob],
        producer: Producer | None,
        rejected: BatchRejected,
    ) -> Commit:
        if producer is not None and items:
            halved = [
                self._append_part(items, command_id, blobs, None),
                self._append_part((), command_id + PRODUCED, (), producer),
            ]
            return joined(command_id, halved)
        if len(items) == 1:
            outcome = Rejected(reason=rejected.reason)
            return _commit(command_id, [outcome], None, None)
        if not items:
            raise rejected
        parts = [
            self._append_part(part, command_id + end, blobs, None)
            for end, part in halves(items)
        ]
        return joined(command_id, parts)

    def _store(
        self,
        items: Sequence[Append],
        command_id: str,
        blobs: Sequence[Blob],
        producer: Producer | None,
    ) -> Commit:
        self._store_blobs(blobs)
        bases = self._won_bases(items)
        more, answer = self._produced(items, bases, producer)
        if more:
            items = [*items, *more]
            bases += self._won_bases(more)
        if all(base is None for base in bases):
            lost = [Conflict() for _ in range(len(items) - len(more))]
            return _commit(command_id, lost, None, None, answer)
        position, previous, recorded = self._connection.execute(
            "SELECT position, hash, recorded_at FROM log_head WHERE id = 1"
        ).fetchone()
        stamp = max(self._clock(), 0 if recorded is None else _instant(recorded))
        outcomes, events = _placed(items, bases, position, stamp)
        digest = commit_hash(previous, command_id, stamp, events)
        self._insert(command_id, events, digest, stamp)
        self._count(_won(items, bases))
        own = outcomes[: len(items) - len(more)]
        return _commit(command_id, own, events, stamp, answer)

    def _store_blobs(self, blobs: Sequence[Blob]) -> None:
        self._connection.executemany(
            "INSERT INTO blobs (hash, size, encoding, body) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            [(blob.hash, blob.size, blob.encoding, blob.body) for blob in blobs],
        )

    def _produced(
        self,
        items: Sequence[Append],
        bases: Sequence[int | None],
        producer: Producer | None,
    ) -> tuple[Sequence[Append], Any]:
        if producer is None:
            return (), None
        produced = producer.produce(self.execute, changes_of(_won(items, bases)))
        return produced.items, produced.answer

    def _won_bases(self, items: Sequence[Append]) -> list[int | None]:
        """Return for each item the version that its events follow, None where it loses."""
        for item in items:
            require_no_nul(item, (item.stream, *(event.type for event in item.events)))
        written = written_rows(self._connection.execute, self._writers, items)
        return [
            self._end_of(item)
            if item.projection is None
            else (item.expected_version if is_written else None)
            for item, is_written in zip(items, written, strict=True)
        ]

    def _end_of(self, item: Append) -> int | None:
        found = self._connection.execute(
            "SELECT coalesce(max(version), 0) FROM events WHERE stream = ?", (item.stream,)
        ).fetchone()[0]
        return int(found) if item.expected_version in (ANY_VERSION, found) else None

    def _insert(
        self, command_id: str, events: list[RecordedEvent], digest: str, stamp: int
    ) -> None:
        recorded_at = instant_text(stamp)
        insert_all(
            self._connection.execute,
            "events",
            ("position", "stream", "version", "type", "data", "meta", "recorded_at"),
            [(*astuple(event)[:-1], recorded_at) for event in events],
        )
        last = events[-1].position
        self._connection.execute(
            "INSERT INTO commits"
            " (last_position, command_id, events, recorded_at, hash, rules)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (last, command_id, len(events), recorded_at, digest, CURRENT_RULES),
        )
        self._connection.execute(
            "UPDATE log_head SET position = ?, hash = ?, recorded_at = ? WHERE id = 1",
            (last, digest, recorded_at),
        )

    def _count(self, items: Iterable[Append]) -> None:
        self._connection.executemany(
            "INSERT INTO counters (name, value) VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
            [(name, delta) for name, delta in changes_of(items).items() if delta],
        )


def _won(items: Sequence[Append], bases: Sequence[int | None]) -> Iterator[Append]:
    return (i for i, base in zip(items, bases, strict=True) if base is not None)


def _instant(text: str) -> int:
    return instant_of(datetime.fromisoformat(text))


def _placed(
    items: Sequence[Append], bases: Sequence[int | None], position: int, stamp: int
) -> tuple[list[Outcome], list[RecordedEvent]]:
    outcomes: list[Outcome] = []
    events: list[RecordedEvent] = []
    for item, base in zip(items, bases, strict=True):
        if base is None:
            outcomes.append(Conflict())
            continue
        first = position + 1
        for number, new in enumerate(item.events, start=1):
            position += 1
            events.append(
                RecordedEvent(
                    position,
                    item.stream,
                    base + number,
                    new.type,
                    new.data,
                    new.meta,
                    stamp,
                )
            )
        version = base + len(item.events)
        outcomes.append(
            Appended(first_position=first, last_position=position, version=version)
        )
    return outcomes, events


def _commit(
    command_id: str,
    outcomes: Sequence[Outcome],
    events: list[RecordedEvent] | None,
    stamp: int | None,
    answer: Any = None,
) -> Commit:
    return Commit(
        command_id=command_id,
        first_position=events[0].position if events else None,
        last_position=events[-1].position if events else None,
        recorded_at=stamp,
        outcomes=tuple(outcomes),
        answer=answer,
    )
