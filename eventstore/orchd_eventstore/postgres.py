"""The store on PostgreSQL: an append is one call of a server-side function."""

from __future__ import annotations

import base64
import logging
import select
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import msgspec
import sqlalchemy as sa

from orchd_eventstore.backend import (
    COMMIT_EVENTS,
    COMMIT_RANGE,
    Projections,
    halves,
    joined,
    resolved,
)
from orchd_eventstore.errors import (
    BatchRejected,
    CommandRepeated,
    rejecting,
    translated,
)
from orchd_eventstore.events import (
    NO_STREAM,
    Append,
    Appended,
    Blob,
    Commit,
    Conflict,
    Outcome,
    Rejected,
)
from orchd_eventstore.news import News
from orchd_eventstore.postgres_ddl import NOTIFY_CHANNEL, append_signature

logger = logging.getLogger(__name__)

SESSION = {
    "synchronous_commit": "on",
    "lock_timeout": "5s",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "10s",
}
"""Settings of every session: durable, and unable to hold the others up for long."""
CONNECT = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "application_name": "orchd",
}
_encode = msgspec.json.Encoder().encode


def _json(value: Any) -> str | None:
    return _encode(value).decode() if value else None


class PostgresBackend:
    """One PostgreSQL database."""

    placeholder = "%s"

    def __init__(self, url: sa.URL, projections: Projections, *, readers: int = 4) -> None:
        self._projections = projections
        self._call = append_signature(tuple(projections.values()))
        options = " ".join(f"-c {name}={value}" for name, value in SESSION.items())
        self._engine = sa.create_engine(
            url,
            isolation_level="AUTOCOMMIT",
            pool_size=readers + 1,
            max_overflow=readers,
            pool_pre_ping=False,
            connect_args={**CONNECT, "options": options},
        )
        self._lock = threading.RLock()
        self._writer: Any = None
        self._pipeline: Any = None
        self._open = ExitStack()
        self._listener = _Listener(self._engine)

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """Lend the driver's connection that writes; a broken one is replaced."""
        with self._lock:
            if self._writer is None:
                with translated():
                    self._writer = self._engine.raw_connection()
                    # Leaving a pipeline costs a round trip, so it is never left.
                    self._pipeline = self._open.enter_context(
                        self._writer.driver_connection.pipeline()
                    )
            connection = self._writer.driver_connection
            try:
                yield connection
            except BaseException:
                if connection.closed or connection.broken:
                    self._drop_writer()
                raise

    def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(Exception):
                self._open.close()
            with suppress(Exception):
                writer.invalidate()

    @contextmanager
    def transaction(self) -> Iterator[PostgresTransaction]:
        with self._connection() as connection:
            transaction = PostgresTransaction(self, connection, self._pipeline)
            try:
                yield transaction
            finally:
                transaction.rollback()
        if transaction.committed:
            self.news.tell()

    def append(
        self, items: Sequence[Append], command_id: str, blobs: Sequence[Blob]
    ) -> Commit:
        with self._connection() as connection:
            try:
                answer = self._call_alone(connection, items, command_id, blobs)
            except BatchRejected:
                # The transaction that could not be stored as a whole is bisected in a
                # transaction, where each part has a savepoint.
                with self.transaction() as transaction:
                    return transaction.append(items, command_id, blobs)
            except CommandRepeated:
                answer = {"repeated": True}
            if answer["repeated"]:
                with self.transaction() as transaction:
                    return transaction.resolve(items, command_id)
        self.news.tell()
        return commit_of(command_id, items, answer)

    def _call_alone(
        self,
        connection: Any,
        items: Sequence[Append],
        command_id: str,
        blobs: Sequence[Blob],
    ) -> dict[str, Any]:
        with translated(at_commit=True):
            parameters = self.parameters(items, command_id, blobs)
            try:
                cursor = connection.execute(self._call, parameters)
                send_all(connection)
                self._pipeline.sync()
                answer: dict[str, Any] = cursor.fetchone()[0]
            except Exception:
                # An error leaves the pipeline aborted until it is synchronised.
                with suppress(Exception):
                    self._pipeline.sync()
                raise
            return answer

    @property
    def call(self) -> str:
        """The statement that appends."""
        return self._call

    def parameters(
        self, items: Sequence[Append], command_id: str, blobs: Sequence[Blob]
    ) -> list[Any]:
        """Return a batch as the function's parameters; may raise `BatchRejected`."""
        with rejecting():
            return self._encoded(items, command_id, blobs)

    def _encoded(
        self, items: Sequence[Append], command_id: str, blobs: Sequence[Blob]
    ) -> list[Any]:
        rows: dict[tuple[str, bool], list[dict[str, Any]]] = {}
        for number, item in enumerate(items):
            if item.projection is not None:
                insert = item.expected_version == NO_STREAM
                row = self._row(number, item, insert)
                rows.setdefault((item.projection, insert), []).append(row)
        parameters: list[Any] = [
            command_id,
            _json([event for n, item in enumerate(items) for event in _events(n, item)]),
            _encode(
                [c for n, item in enumerate(items) for c in _counters(n, item)]
            ).decode(),
            _json([_blob(blob) for blob in blobs]),
            any(item.projection is None for item in items),
        ]
        for name, projection in self._projections.items():
            updates = rows.get((name, False))
            keys = [row[projection.key] for row in updates or ()]
            parameters += [_json(rows.get((name, True))), _json(updates), keys]
        return parameters

    def _row(self, number: int, item: Append, insert: bool) -> dict[str, Any]:
        projection, row = self._projections[item.projection or ""], item.row
        assert row is not None
        columns = projection.columns if insert else (projection.key, *projection.mutable)
        values = dict(zip(columns, projection.values(row, columns), strict=True))
        return {"item": number, "expected": item.expected_version, **values}

    @contextmanager
    def reader(self) -> Iterator[sa.Connection]:
        with translated(), self._engine.connect() as connection:
            yield connection

    def now(self) -> int:
        with self.reader() as connection:
            micros = connection.exec_driver_sql(
                "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
            ).scalar_one()
        return int(micros)

    @property
    def news(self) -> News:
        return self._listener.news

    def close(self) -> None:
        self._listener.close()
        with self._lock:
            self._drop_writer()
        self._engine.dispose()


class PostgresTransaction:
    """A transaction of a `PostgresBackend`, in the driver's pipeline mode.

    BEGIN travels with the first statement and COMMIT with the append, so that a
    transaction with one group of reads takes two round trips.
    """

    def __init__(self, backend: PostgresBackend, connection: Any, pipeline: Any) -> None:
        self._backend = backend
        self._connection = connection
        self._pipeline = pipeline
        self._begun = False
        self.committed = False

    def _begin(self) -> None:
        if not self._begun:
            self._connection.execute("BEGIN")
            self._begun = True

    def execute(
        self, statement: str, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        return self.execute_all([(statement, parameters)])[0]

    def execute_all(
        self, statements: Sequence[tuple[str, Sequence[Any]]]
    ) -> list[list[tuple[Any, ...]]]:
        with translated():
            self._begin()
            cursors = [self._connection.execute(s, p or None) for s, p in statements]
            self._pipeline.sync()
            return [c.fetchall() if c.description else [] for c in cursors]

    def append(
        self, items: Sequence[Append], command_id: str, blobs: Sequence[Blob]
    ) -> Commit:
        commit = self._append(items, command_id, blobs, last=True)
        if not self.committed:
            self.commit()
        return commit

    def _append(
        self, items: Sequence[Append], command_id: str, blobs: Sequence[Blob], *, last: bool
    ) -> Commit:
        try:
            parameters = self._backend.parameters(items, command_id, blobs)
        except BatchRejected as rejected:
            # Nothing has been sent, so there is nothing to undo.
            return self._bisect(items, command_id, blobs, rejected)
        try:
            answer = self._call(parameters, last)
        except BatchRejected as rejected:
            self._undo()
            return self._bisect(items, command_id, blobs, rejected)
        except CommandRepeated:
            self._undo()
            answer = {"repeated": True}
        if answer["repeated"]:
            return self.resolve(items, command_id)
        return commit_of(command_id, items, answer)

    def _undo(self) -> None:
        # An error leaves the pipeline aborted until the next synchronisation point.
        with suppress(Exception):
            self._pipeline.sync()
        with translated():
            self._connection.execute("ROLLBACK TO SAVEPOINT batch")
            self._pipeline.sync()

    def resolve(self, items: Sequence[Append], command_id: str) -> Commit:
        """Answer a command that is in the log already from its events."""
        at = "(extract(epoch FROM recorded_at) * 1000000)::bigint"
        first, last, recorded_at = self.execute(
            COMMIT_RANGE.format(at=at, mark="%s"), (command_id,)
        )[0]
        rows = self.execute(COMMIT_EVENTS.format(mark="%s"), (first, last))
        return resolved(items, command_id, recorded_at, rows)

    def _call(self, parameters: list[Any], last: bool) -> dict[str, Any]:
        with translated(at_commit=True):
            self._begin()
            self._connection.execute("SAVEPOINT batch")
            cursor = self._connection.execute(self._backend.call, parameters)
            send_all(self._connection)
            if last:
                self._connection.execute("COMMIT")
            self._pipeline.sync()
            answer: dict[str, Any] = cursor.fetchone()[0]
        if last:
            self._begun, self.committed = False, True
        return answer

    def _bisect(
        self,
        items: Sequence[Append],
        command_id: str,
        blobs: Sequence[Blob],
        rejected: BatchRejected,
    ) -> Commit:
        if len(items) == 1:
            return commit_of(command_id, items, {}, Rejected(reason=rejected.reason))
        parts = [
            self._append(part, command_id + end, blobs, last=False)
            for end, _, part in halves(items)
        ]
        return joined(command_id, parts)

    def commit(self) -> None:
        """Commit what has been done."""
        with translated(at_commit=True):
            self._connection.execute("COMMIT")
            self._pipeline.sync()
        self._begun, self.committed = False, True

    def rollback(self) -> None:
        """Undo what has not been committed."""
        if not self._begun or self._connection.closed:
            return
        self._begun = False
        with suppress(Exception):
            self._pipeline.sync()
        with suppress(Exception):
            self._connection.execute("ROLLBACK")
            self._pipeline.sync()


def send_all(connection: Any) -> None:
    """Wait until everything that was executed has left this process.

    In pipeline mode the driver flushes once and then waits only for answers; a message
    larger than the socket's buffer would never get out, and so have no answer.
    """
    wire = connection.pgconn
    poller = select.poll()
    poller.register(wire.socket, select.POLLIN | select.POLLOUT)
    while wire.flush():
        for _, ready in poller.poll():
            if ready & ~select.POLLOUT:
                wire.consume_input()


def _events(number: int, item: Append) -> Iterator[dict[str, Any]]:
    bare = item.projection is None
    base = max(item.expected_version, 0)
    for offset, event in enumerate(item.events, start=1):
        fields = {
            "item": number,
            "stream": item.stream,
            "version": base + offset,
            "type": event.type,
            "data": event.data,
            "meta": event.meta,
        }
        yield {**fields, "expected": item.expected_version} if bare else fields


def _counters(number: int, item: Append) -> Iterator[dict[str, Any]]:
    for name, delta in item.counters.items():
        if delta:
            yield {"item": number, "name": name, "delta": delta}


def _blob(blob: Blob) -> dict[str, Any]:
    return {
        "hash": blob.hash,
        "size": blob.size,
        "encoding": blob.encoding,
        "body": base64.b64encode(blob.body).decode(),
    }


def commit_of(
    command_id: str,
    items: Sequence[Append],
    answer: dict[str, Any],
    loser: Outcome | None = None,
) -> Commit:
    """Return what the function's answer says of each item."""
    spans = {
        number: Appended(first_position=first, last_position=last, version=version)
        for number, first, last, version in answer.get("spans") or ()
    }
    lost = loser or Conflict()
    return Commit(
        command_id=command_id,
        first_position=answer.get("first"),
        last_position=answer.get("last"),
        recorded_at=answer.get("at"),
        outcomes=tuple(spans.get(number, lost) for number in range(len(items))),
    )


class _Listener:
    """Hears of commits: of this process at once, of others through LISTEN.

    The connection that listens is made when somebody first waits, and made anew when it
    breaks; a hint that is lost meanwhile costs one timeout.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self.news = News(self._start)

    def _start(self) -> None:
        with self._start_lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(
                    target=self._listen, name="eventstore-listen", daemon=True
                )
                self._thread.start()

    def _listen(self) -> None:
        while not self._closed.is_set():
            try:
                self._listen_once()
            except Exception as error:
                logger.debug("listening was interrupted: %s", error)
                self._closed.wait(1.0)

    def _listen_once(self) -> None:
        borrowed = self._engine.raw_connection()
        try:
            connection = borrowed.driver_connection
            assert connection is not None
            connection.execute(f"LISTEN {NOTIFY_CHANNEL}")
            self.news.tell()
            while not self._closed.is_set():
                for _ in connection.notifies(timeout=0.5):
                    self.news.tell()
                    break
        finally:
            borrowed.invalidate()

    def close(self) -> None:
        """Stop listening; idempotent."""
        self._closed.set()
        self.news.tell()
        if self._thread is not None:
            self._thread.join(timeout=5)
