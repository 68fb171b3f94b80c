"""The event store: appends batches, reads them back, and knows nothing of their meaning."""

from __future__ import annotations

from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import sqlalchemy as sa

from orchd_eventstore import erasing, schema
from orchd_eventstore.backend import (
    Backend,
    BackendSession,
    BackendTransaction,
    Producer,
    require_valid,
)
from orchd_eventstore.errors import LogCorrupted
from orchd_eventstore.events import (
    Append,
    Blob,
    Commit,
    Erasure,
    Head,
    RecordedEvent,
)
from orchd_eventstore.projection import Projection
from orchd_eventstore.subscription import follow
from orchd_eventstore.verification import Progress, Verification, verify_log

BLOBS_MAX = 1_000
"""How many bodies one statement reads."""


class Session:
    """Reads, then one append that commits.

    On SQLite both are one transaction. On PostgreSQL nothing is locked in between: an item
    whose row has moved since it was read loses.
    """

    def __init__(self, inner: BackendSession, store: EventStore) -> None:
        self._inner = inner
        self._store = store

    def execute_all(
        self, statements: Sequence[tuple[str, Sequence[Any]]]
    ) -> list[list[tuple[Any, ...]]]:
        """Run statements that read, in one round trip where the driver can.

        They are in the driver's own parameter style.
        """
        return self._inner.execute_all(statements)

    def append(
        self,
        items: Sequence[Append],
        *,
        command_id: str,
        blobs: Sequence[Blob] = (),
        producer: Producer | None = None,
    ) -> Commit:
        """Append and commit; see `EventStore.append`."""
        require_valid(items, self._store.projections)
        commit = self._inner.append(items, command_id, blobs, producer)
        self._store.tell_of(commit)
        return commit


class Transaction:
    """A write transaction for what the log does not say; it locks what it touches.

    On PostgreSQL others wait meanwhile, so it is for maintenance, not for every day.
    """

    def __init__(self, inner: BackendTransaction, store: EventStore) -> None:
        self._inner = inner
        self.placeholder = store.placeholder

    def execute(
        self, statement: str, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Run a statement in the driver's parameter style; return its rows, if any."""
        return self._inner.execute(statement, parameters)

    def execute_all(
        self, statements: Sequence[tuple[str, Sequence[Any]]]
    ) -> list[list[tuple[Any, ...]]]:
        """Run several statements, in one round trip where the driver can."""
        return self._inner.execute_all(statements)

    def erase(self, erasures: Iterable[Erasure]) -> None:
        """Replace the data of events; see `orchd_eventstore.erasing`."""
        self.execute_all(erasing.statements(erasures, self.placeholder))

    def commit(self) -> None:
        """Commit what has been done; left without it, a transaction changes nothing."""
        self._inner.commit()


class EventStore:
    """A log in one database, with the projections that are written along with it.

    It is synchronous and may be used from several threads; writes take turns. `open` makes
    one from a URL.
    """

    def __init__(self, backend: Backend, projections: Iterable[Projection] = ()) -> None:
        self._backend = backend
        self.projections = {projection.name: projection for projection in projections}
        self.placeholder = backend.placeholder

    @classmethod
    def open(
        cls,
        url: str | sa.URL,
        projections: Iterable[Projection] = (),
        *,
        clock: Callable[[], int] | None = None,
        read_only: bool = False,
        readers: int = 4,
    ) -> EventStore:
        """Open the store at a SQLAlchemy URL (`sqlite:///…` or `postgresql://…`).

        Args:
            projections: what `Append.projection` may name; on PostgreSQL the function in
                the database was made for the same ones, in the same order.
            clock: for SQLite, in microseconds; by default the one that SQL sees.
            read_only: SQLite: do not write, so that another process may.
            readers: connections kept for reading.

        Raises:
            StoreUnavailable: there is nothing at the URL, or it cannot be reached.
        """
        parsed, chosen = sa.make_url(url), tuple(projections)
        by_name = {projection.name: projection for projection in chosen}
        backend: Backend
        if parsed.get_backend_name() == "sqlite":
            from orchd_eventstore.sqlite import SqliteBackend

            backend = SqliteBackend(
                parsed.database or "",
                by_name,
                clock=clock,
                read_only=read_only,
                readers=readers,
            )
        else:
            from orchd_eventstore.postgres import PostgresBackend

            backend = PostgresBackend(parsed, by_name, readers=readers)
        return cls(backend, chosen)

    def close(self) -> None:
        """Give up all connections; idempotent."""
        self._backend.close()

    # --- writing ----------------------------------------------------------------------

    def append(
        self,
        items: Sequence[Append],
        *,
        command_id: str,
        blobs: Sequence[Blob] = (),
        producer: Producer | None = None,
    ) -> Commit:
        """Append a batch in one commit; it is durable when this returns.

        Each item is accepted or loses alone. A `command_id` that is in the log already is
        not carried out again but answered from there, with `repeated` set. A batch that
        the database will not store is split until the item at fault is alone; the parts
        commit under the ids `<command_id>/a`, `<command_id>/b` and so on.

        Args:
            producer: adds items to the batch; it is not asked when the command is
                repeated.

        Raises:
            OutcomeUnknown: the connection was lost at COMMIT; repeat the identical call.
            StoreUnavailable: nothing was stored; repeat the identical call.
            InvalidAppend: the batch breaks the contract.
        """
        require_valid(items, self.projections)
        commit = self._backend.append(items, command_id, blobs, producer)
        self.tell_of(commit)
        return commit

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Begin to read what one append needs to know."""
        with self._backend.session() as inner:
            yield Session(inner, self)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Begin a transaction that changes what the log does not say."""
        with self._backend.transaction() as inner:
            yield Transaction(inner, self)

    def scrubbing(self) -> AbstractContextManager[None]:
        """Overwrite what is deleted in the block, as far as that is in our hands.

        On SQLite nothing of it stays in the file or its write-ahead log, unless somebody
        reads at the end of the block. On PostgreSQL VACUUM has to come by.
        """
        return self._backend.scrubbing()

    # --- reading ----------------------------------------------------------------------

    def connect_reader(self) -> AbstractContextManager[sa.Connection]:
        """Lend a connection that only reads, for the user's own queries."""
        return self._backend.reader()

    def read_stream(
        self, stream: str, *, after_version: int = 0, limit: int | None = None
    ) -> list[RecordedEvent]:
        """Return the events of a stream with versions above `after_version`."""
        table = schema.events
        query = (
            sa.select(table)
            .where(table.c.stream == stream, table.c.version > after_version)
            .order_by(table.c.version)
            .limit(limit)
        )
        return self._read(query)

    def read_all(
        self, *, after: int = 0, limit: int = 1000, up_to: int | None = None
    ) -> list[RecordedEvent]:
        """Return the events with positions above `after`, in the order of the log."""
        position = schema.events.c.position
        query = sa.select(schema.events).where(position > after).order_by(position)
        if up_to is not None:
            query = query.where(position <= up_to)
        return self._read(query.limit(limit))

    def read_backwards(
        self, *, before: int | None = None, limit: int = 1000
    ) -> list[RecordedEvent]:
        """Return the newest events with positions below `before`, newest first."""
        position = schema.events.c.position
        query = sa.select(schema.events).order_by(position.desc()).limit(limit)
        if before is not None:
            query = query.where(position < before)
        return self._read(query)

    def read_commit(self, command_id: str) -> list[RecordedEvent] | None:
        """Return the events of a command, or None if it is not in the log.

        The parts of a batch that had to be split belong to its command.
        """
        table = schema.commits
        named = table.c.command_id
        query = (
            sa.select(table.c.last_position, table.c.events)
            .where(
                (named == command_id) | named.startswith(command_id + "/", autoescape=True)
            )
            .order_by(table.c.last_position)
        )
        with self.connect_reader() as connection:
            found = connection.execute(query).all()
        if not found:
            return None
        pages = (self.read_all(after=last - n, up_to=last, limit=n) for last, n in found)
        return [event for page in pages for event in page]

    def _read(self, query: sa.Select[Any]) -> list[RecordedEvent]:
        with self.connect_reader() as connection:
            return [RecordedEvent(*row) for row in connection.execute(query)]

    def head(self) -> Head:
        """Return the end of the log; raises `LogCorrupted` when it is lost."""
        table = schema.log_head
        query = sa.select(table.c.position, table.c.hash, table.c.recorded_at)
        with self.connect_reader() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise LogCorrupted(
                "the row of log_head, which says where the log ends, is missing; restore a "
                "checkpoint or a backup, and keep this database for analysis"
            )
        return Head(position=row.position, hash=row.hash, recorded_at=row.recorded_at)

    def blob(self, digest: str) -> bytes | None:
        """Return the body with this hash, or None when it is not (any more) stored."""
        return self.blobs((digest,)).get(digest)

    def blobs(self, digests: Collection[str]) -> dict[str, bytes]:
        """Return bodies by their hashes, without those that are not (any more) stored."""
        table = schema.blobs.c
        query = sa.select(table.hash, table.body).where(
            table.hash.in_(sa.bindparam("digests", expanding=True))
        )
        names, found = list(digests), dict[str, bytes]()
        with self.connect_reader() as connection:
            for start in range(0, len(names), BLOBS_MAX):
                some = {"digests": names[start : start + BLOBS_MAX]}
                rows = connection.execute(query, some)
                found.update((digest, bytes(body)) for digest, body in rows)
        return found

    def erasures(self, after: int, up_to: int) -> list[Erasure]:
        """Return what was erased from the events of a range of positions, in order."""
        table = schema.erasures
        query = (
            sa.select(table)
            .where(table.c.position > after, table.c.position <= up_to)
            .order_by(table.c.position)
        )
        with self.connect_reader() as connection:
            rows = connection.execute(query).mappings()
            return [Erasure(**row) for row in rows]

    def counters(self) -> dict[str, int]:
        """Return all counters by name."""
        with self.connect_reader() as connection:
            rows = connection.execute(sa.select(schema.counters)).all()
        return {name: value for name, value in rows}

    def streams(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[str]:
        """Return the names of streams with a prefix, in order, above `after`."""
        stream = schema.events.c.stream
        query = (
            sa.select(stream)
            .where(
                schema.events.c.version == 1,
                stream > max(after, prefix[:-1]),
                stream.startswith(prefix, autoescape=True),
            )
            .order_by(stream)
            .limit(limit)
        )
        with self.connect_reader() as connection:
            return list(connection.execute(query).scalars())

    def now(self) -> int:
        """Return the database's clock in microseconds."""
        return self._backend.now()

    # --- following and checking -------------------------------------------------------

    def subscribe(
        self, *, after: int = 0, batch: int = 500
    ) -> AsyncIterator[list[RecordedEvent]]:
        """Follow the log from a position on; see `orchd_eventstore.subscription`."""
        return follow(
            lambda position, limit: self.read_all(after=position, limit=limit),
            self._backend.news,
            after=after,
            batch=batch,
        )

    def hints(self) -> int:
        """Return how often somebody may have committed; see `wait`."""
        return self._backend.news.count

    def wait(self, timeout_seconds: float, *, seen: int | None = None) -> None:
        """Block until somebody may have committed, or until the timeout.

        Who looks at the log before waiting takes `hints()` before that look and hands it
        in as `seen`: a commit between the look and the wait then ends the wait at once.
        """
        self._backend.news.wait(timeout_seconds, seen)

    def tell_of(self, commit: Commit) -> None:
        """Wake whoever waits for the log to grow, if it has.

        A claim that found nothing has appended nothing, and a lease that was renewed is
        not in the log. An idle daemon would look twice as often for the sake of them.
        """
        if commit.last_position is not None:
            self._backend.news.tell()

    def wake(self) -> None:
        """End all waits of this process."""
        self._backend.news.tell()

    def verify(self, progress: Progress | None = None) -> Verification:
        """Check the whole log against its hash chain, in bounded memory."""
        with self.connect_reader() as connection:
            return verify_log(
                connection,
                self.head,
                lambda after, up_to: self.read_all(
                    after=after, up_to=up_to, limit=up_to - after
                ),
                self.erasures,
                progress,
            )
