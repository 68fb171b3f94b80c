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

from orchd_eventstore import erasing
from orchd_eventstore.addresses import SQLITE_PREFIX
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
from orchd_eventstore.instants import instant_of
from orchd_eventstore.projection import Projection
from orchd_eventstore.subscription import follow
from orchd_eventstore.verification import (
    CommitRow,
    Progress,
    Verification,
    verify_log,
)

BLOBS_MAX = 1_000
"""How many bodies one statement reads."""
POSITION_MAX = 2**63 - 1
"""The end of a range that has none."""

BlobRow = tuple[str, int, str, bytes]
"""Hash, size, encoding and body."""

_BLOBS = "SELECT hash, size, encoding, body FROM blobs"
_EVENTS = "SELECT position, stream, version, type, data, meta, recorded_at FROM events"
_COMMITS_OF = (
    "SELECT last_position, events FROM commits"
    " WHERE command_id = ? OR substr(command_id, 1, ?) = ? ORDER BY last_position"
)
_COMMITS = (
    "SELECT last_position, command_id, events, recorded_at, hash, rules FROM commits"
    " WHERE last_position > ? ORDER BY last_position LIMIT ?"
)
_BOUNDS = (
    "SELECT min(position), max(position) FROM events UNION ALL"
    " SELECT min(last_position), max(last_position) FROM commits"
)
_ERASURE = ("position", "data_hash", "data", "erased_by")
_ERASURES = (
    f"SELECT {', '.join(_ERASURE)} FROM erasures"
    " WHERE position > ? AND position <= ? ORDER BY position"
)
_STREAMS = (
    "SELECT stream FROM events WHERE version = 1 AND stream > ?"
    " AND substr(stream, 1, ?) = ? ORDER BY stream LIMIT ?"
)


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

    It is synchronous and may be used from several threads. Writes take turns on SQLite; on
    PostgreSQL two may be under way. `open` makes one from a URL.
    """

    def __init__(self, backend: Backend, projections: Iterable[Projection] = ()) -> None:
        self._backend = backend
        self.projections = {projection.name: projection for projection in projections}
        self.placeholder = backend.placeholder
        self.appends_max = backend.appends_max
        """How many appends may be under way at once: 1 where this process writes itself."""

    @classmethod
    def open(
        cls,
        url: str,
        projections: Iterable[Projection] = (),
        *,
        clock: Callable[[], int] | None = None,
        read_only: bool = False,
        readers: int = 4,
    ) -> EventStore:
        """Open the store at a URL, `sqlite:///…` or `postgresql://…`.

        Args:
            projections: what `Append.projection` may name; on PostgreSQL the function in
                the database was made for the same ones, in the same order.
            clock: for SQLite, in microseconds; by default the one that SQL sees.
            read_only: SQLite: do not write, so that another process may.
            readers: connections kept for reading.

        Raises:
            StoreUnavailable: there is nothing at the URL, or it cannot be reached.
            ValueError: it is not a URL of a database.
        """
        chosen = tuple(projections)
        by_name = {projection.name: projection for projection in chosen}
        backend: Backend
        if url.startswith(SQLITE_PREFIX):
            from orchd_eventstore.sqlite import SqliteBackend

            backend = SqliteBackend(
                url.removeprefix(SQLITE_PREFIX),
                by_name,
                clock=clock,
                read_only=read_only,
                readers=readers,
            )
        else:
            from orchd_eventstore.postgres import PostgresBackend

            backend = PostgresBackend(url, by_name, readers=readers)
        return cls(backend, chosen)

    def close(self) -> None:
        """Give up all connections; idempotent."""
        self._backend.close()

    # --- writing ----------------------------------------------------------------------

    def when_sent(self, call: Callable[[], None]) -> None:
        """Call back, in the thread that appends, when a batch is on its way to a server.

        On SQLite there is no server, and nothing is called.
        """
        self._backend.on_sent = call

    def append(
        self,
        items: Sequence[Append],
        *,
        command_id: str,
        blobs: Sequence[Blob] = (),
        producer: Producer | None = None,
    ) -> Commit:
        """Append a batch in one commit; it is durable when this returns.

        Each item is accepted or loses alone, and the rows of a batch are written in any
        order. A `command_id` that is in the log already is
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

    def connect_reader(self) -> AbstractContextManager[Any]:
        """Lend a connection of the driver's that only reads, for the user's own queries.

        Statements are in the driver's parameter style and stand alone, unless the borrower
        begins a transaction; one that is left open is rolled back.
        """
        return self._backend.reader()

    def _rows(self, text: str, *parameters: Any) -> list[Any]:
        with self.connect_reader() as connection:
            statement = text.replace("?", self.placeholder)
            rows: list[Any] = connection.execute(statement, parameters).fetchall()
            return rows

    def read_stream(
        self, stream: str, *, after_version: int = 0, limit: int | None = None
    ) -> list[RecordedEvent]:
        """Return the events of a stream with versions above `after_version`."""
        text = f"{_EVENTS} WHERE stream = ? AND version > ? ORDER BY version"
        if limit is None:
            return self._events(text, stream, after_version)
        return self._events(f"{text} LIMIT ?", stream, after_version, limit)

    def read_all(
        self, *, after: int = 0, limit: int = 1000, up_to: int | None = None
    ) -> list[RecordedEvent]:
        """Return the events with positions above `after`, in the order of the log."""
        bounds = "position > ? AND position <= ?"
        end = POSITION_MAX if up_to is None else up_to
        text = f"{_EVENTS} WHERE {bounds} ORDER BY position LIMIT ?"
        return self._events(text, after, end, limit)

    def read_backwards(
        self, *, before: int | None = None, limit: int = 1000
    ) -> list[RecordedEvent]:
        """Return the newest events with positions below `before`, newest first."""
        text = f"{_EVENTS} WHERE position < ? ORDER BY position DESC LIMIT ?"
        return self._events(text, POSITION_MAX if before is None else before, limit)

    def read_commit(self, command_id: str) -> list[RecordedEvent] | None:
        """Return the events of a command, or None if it is not in the log.

        The parts of a batch that had to be split belong to its command.
        """
        start = command_id + "/"
        found = self._rows(_COMMITS_OF, command_id, len(start), start)
        if not found:
            return None
        pages = (self.read_all(after=last - n, up_to=last, limit=n) for last, n in found)
        return [event for page in pages for event in page]

    def _events(self, text: str, *parameters: Any) -> list[RecordedEvent]:
        return [
            RecordedEvent(position, stream, version, kind, data, meta, instant_of(moment))
            for position, stream, version, kind, data, meta, moment in self._rows(
                text, *parameters
            )
        ]

    def head(self) -> Head:
        """Return the end of the log; raises `LogCorrupted` when it is lost."""
        found = self._rows("SELECT position, hash, recorded_at FROM log_head")
        if not found:
            raise LogCorrupted(
                "the row of log_head, which says where the log ends, is missing; restore a "
                "checkpoint or a backup, and keep this database for analysis"
            )
        [(position, digest, moment)] = found
        recorded_at = None if moment is None else instant_of(moment)
        return Head(position=position, hash=digest, recorded_at=recorded_at)

    def blob(self, digest: str) -> bytes | None:
        """Return the body with this hash, or None when it is not (any more) stored."""
        return self.blobs((digest,)).get(digest)

    def blobs(self, digests: Collection[str]) -> dict[str, bytes]:
        """Return bodies by their hashes, without those that are not (any more) stored."""
        names, found = list(digests), dict[str, bytes]()
        for start in range(0, len(names), BLOBS_MAX):
            some = names[start : start + BLOBS_MAX]
            marks = ", ".join("?" * len(some))
            rows = self._rows(
                f"SELECT hash, body FROM blobs WHERE hash IN ({marks})", *some
            )
            found.update((digest, bytes(body)) for digest, body in rows)
        return found

    def stored_blob(self, digest: str) -> BlobRow | None:
        """Return the row of the body with this hash, unchecked."""
        return self._blob(f"{_BLOBS} WHERE hash = ?", digest)

    def next_blob(self, after: str) -> BlobRow | None:
        """Return the row of the first body whose hash is above `after`, unchecked."""
        return self._blob(f"{_BLOBS} WHERE hash > ? ORDER BY hash LIMIT 1", after)

    def _blob(self, text: str, digest: str) -> BlobRow | None:
        for name, size, encoding, body in self._rows(text, digest):
            return name, size, encoding, bytes(body)
        return None

    def erasures(self, after: int, up_to: int) -> list[Erasure]:
        """Return what was erased from the events of a range of positions, in order."""
        rows = self._rows(_ERASURES, after, up_to)
        return [Erasure(**dict(zip(_ERASURE, row, strict=True))) for row in rows]

    def counters(self) -> dict[str, int]:
        """Return all counters by name."""
        return dict(self._rows("SELECT name, value FROM counters"))

    def streams(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[str]:
        """Return the names of streams with a prefix, in order, above `after`."""
        above = max(after, prefix[:-1])
        rows = self._rows(_STREAMS, above, len(prefix), prefix, limit)
        return [stream for (stream,) in rows]

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

    def commits(self, *, after: int = -1, limit: int = 500) -> list[CommitRow]:
        """Return the rows of the commits that end above a position, in order."""
        rows = self._rows(_COMMITS, after, limit)
        return [
            CommitRow(last, command, events, instant_of(moment), digest, rules)
            for last, command, events, moment, digest, rules in rows
        ]

    def bounds(self) -> tuple[int, int]:
        """Return the lowest and the highest position that any row of the log claims."""
        lowest, highest = zip(*self._rows(_BOUNDS), strict=True)
        return (
            min((bound for bound in lowest if bound is not None), default=1),
            max((bound for bound in highest if bound is not None), default=0),
        )

    def verify(self, progress: Progress | None = None) -> Verification:
        """Check the whole log against its hash chain, in bounded memory."""
        return verify_log(self, progress)
