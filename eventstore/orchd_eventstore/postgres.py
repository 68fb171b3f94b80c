"""The store on PostgreSQL: an append is one call of a server-side function.

Nothing is ever locked while the server waits for the client, except in a `transaction`,
which is for changes that the log does not say. A client may freeze wherever it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psycopg
from psycopg.pq import ExecStatus, TransactionStatus

from orchd_eventstore.addresses import postgres_parameters
from orchd_eventstore.backend import (
    COMMIT_EVENTS,
    COMMIT_RANGE,
    PRODUCED,
    Producer,
    Projections,
    halves,
    joined,
    resolved,
)
from orchd_eventstore.errors import BatchRejected, CommandRepeated, translated
from orchd_eventstore.events import Append, Blob, Commit, Rejected
from orchd_eventstore.news import News
from orchd_eventstore.pool import Pool
from orchd_eventstore.postgres_ddl import append_call
from orchd_eventstore.postgres_listening import Listener
from orchd_eventstore.postgres_patience import (
    STATEMENT_SECONDS,
    PatientConnection,
    send_all,
)
from orchd_eventstore.postgres_wire import Answer, Wire, commit_of, decode_answer

SESSION = {
    "synchronous_commit": "on",
    "lock_timeout": "5s",
    "statement_timeout": f"{STATEMENT_SECONDS}s",
    "idle_in_transaction_session_timeout": "10s",
    # Compiling a statement takes longer than any of ours runs.
    "jit": "off",
}
"""Settings of every session: durable, and unable to hold the others up for long."""
WRITER = {"plan_cache_mode": "force_generic_plan"}
"""Settings of the session that appends. It is handed JSON, of which no plan can know more
than the last one did, and planning each time anew took a fifth of a small commit."""
CONNECT = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "application_name": "orchd",
}
TURN_ITEMS_MIN = 16
"""From so many items on, the batches of one process take turns in the database."""
TURN_CLASS = 0x6F726368
"""What tells the locks for these turns from all others: "orch"."""
_TAKE_TURN = "SELECT pg_advisory_lock(%s, %s)"
_END_TURN = "SELECT pg_advisory_unlock(%s, %s)"
_END_ALL_TURNS = "SELECT pg_advisory_unlock_all()"


class PostgresBackend:
    """One PostgreSQL database."""

    placeholder = "%s"
    appends_max = 2

    def __init__(self, url: str, projections: Projections, *, readers: int = 4) -> None:
        self.on_sent: Callable[[], None] = lambda: None
        self._wire = Wire(projections)
        self._call = append_call(tuple(projections.values()))
        self._turn: int | None = None
        """The lock that the larger batches of this process take: the server's number for
        its first connection. When that has ended another process may get the same one, and
        the two take turns, which is slower and not wrong."""
        self._parameters = postgres_parameters(url) | CONNECT
        self._readers = Pool(self._connect, _settle, kept=readers, most=2 * readers)
        self._writers = Pool(
            self._connect_writer,
            _require_open,
            kept=self.appends_max,
            most=self.appends_max,
            purpose="writing",
        )
        self._listener = Listener(self._connect)

    def _connect(self, settings: Mapping[str, str] = SESSION) -> PatientConnection:
        # What the URL sets goes first, so that ours holds.
        theirs = self._parameters.get("options", "")
        ours = " ".join(f"-c {name}={value}" for name, value in settings.items())
        options = self._parameters | {"options": f"{theirs} {ours}".strip()}
        return PatientConnection.connect(**options, autocommit=True)

    def _connect_writer(self) -> PipelinedConnection:
        connection = self._connect(SESSION | WRITER)
        self._turn = self._turn or connection.info.backend_pid
        return PipelinedConnection(connection)

    @contextmanager
    def _writer(self) -> Iterator[PipelinedConnection]:
        """Lend a connection that writes; a broken one is replaced."""
        with translated(), self._writers.lend() as writer:
            yield writer

    @contextmanager
    def session(self) -> Iterator[PostgresSession]:
        yield PostgresSession(self)

    @contextmanager
    def transaction(self) -> Iterator[PostgresTransaction]:
        with self._writer() as writer:
            transaction = PostgresTransaction(writer.connection, writer.pipeline)
            try:
                yield transaction
            finally:
                transaction.rollback()

    def execute_all(
        self, statements: Sequence[tuple[str, Sequence[Any]]]
    ) -> list[list[tuple[Any, ...]]]:
        """Run statements that only read, outside any transaction, in one round trip."""
        with self._writer() as writer, translated():
            try:
                return run_all(writer.connection, writer.pipeline, statements)
            except Exception:
                # What failed may have undone a statement that was prepared after it, and
                # the driver would go on naming it.
                writer.close()
                raise

    def append(
        self,
        items: Sequence[Append],
        command_id: str,
        blobs: Sequence[Blob],
        producer: Producer | None,
    ) -> Commit:
        try:
            answer = self._append(items, command_id, blobs, producer)
        except BatchRejected as rejected:
            return self._bisect(items, command_id, blobs, producer, rejected)
        except CommandRepeated:
            answer = Answer(repeated=True)
        if answer.repeated:
            return self._resolve(items, command_id)
        return commit_of(command_id, items, answer)

    def _append(
        self,
        items: Sequence[Append],
        command_id: str,
        blobs: Sequence[Blob],
        producer: Producer | None,
    ) -> Answer:
        parameters = self._wire.parameters(items, command_id, blobs, producer)
        with self._writer() as writer, translated(at_commit=True):
            # Only now: the first connection is what the turn is named after.
            turn = self._turn if len(items) >= TURN_ITEMS_MIN else None
            cursor = writer.connection.cursor()
            try:
                self._send(writer, cursor, parameters, turn)
                self.on_sent()
                writer.pipeline.sync()
            except Exception:
                writer.recover()
                if not _is_answered(cursor):
                    raise
            return decode_answer(cursor.fetchone()[0])

    def _send(
        self,
        writer: PipelinedConnection,
        cursor: Any,
        parameters: list[Any],
        turn: int | None,
    ) -> None:
        """Send an append, with a turn around it if it takes one, in one piece.

        A batch that began before the last one has ended would keep alive what that one
        replaced, and the page would have no room for what this one writes. The lock is the
        session's, and each of the three is a transaction of its own: newer servers let no
        procedure commit after another statement of its transaction. A batch whose turn
        does not come in time is appended without one.
        """
        if turn is not None:
            writer.connection.execute(_TAKE_TURN, (TURN_CLASS, turn))
            writer.end_transaction()
        cursor.execute(self._call, parameters)
        if turn is not None:
            writer.end_transaction()
            writer.connection.execute(_END_TURN, (TURN_CLASS, turn))
        send_all(writer.connection)

    def _bisect(
        self,
        items: Sequence[Append],
        command_id: str,
        blobs: Sequence[Blob],
        producer: Producer | None,
        rejected: BatchRejected,
    ) -> Commit:
        """Append a batch that the database will not store as a whole in parts.

        Each part is a commit of its own, so nothing is held between them; a repetition of
        the batch fails as a whole again and finds the parts that are there.
        """
        if producer is not None and items:
            halved = [
                self.append(items, command_id, blobs, None),
                self.append((), command_id + PRODUCED, (), producer),
            ]
            return joined(command_id, halved)
        if len(items) == 1:
            return _lonely(command_id, Rejected(reason=rejected.reason))
        if not items:
            raise rejected
        parts = [
            self.append(part, command_id + end, blobs, None) for end, part in halves(items)
        ]
        return joined(command_id, parts)

    def _resolve(self, items: Sequence[Append], command_id: str) -> Commit:
        """Answer a command that is in the log already from its events."""
        at = "(extract(epoch FROM recorded_at) * 1000000)::bigint"
        ranges = COMMIT_RANGE.format(at=at, mark="%s")
        [[(first, last, recorded_at)]] = self.execute_all([(ranges, (command_id,))])
        events = COMMIT_EVENTS.format(mark="%s")
        [rows] = self.execute_all([(events, (first, last))])
        found = [(int(p), str(stream), int(version)) for p, stream, version in rows]
        return resolved(items, command_id, recorded_at, found)

    @contextmanager
    def scrubbing(self) -> Iterator[None]:
        yield

    @contextmanager
    def reader(self) -> Iterator[Any]:
        with translated(), self._readers.lend() as connection:
            yield connection

    def now(self) -> int:
        with self.reader() as connection:
            [micros] = connection.execute(
                "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
            ).fetchone()
        return int(micros)

    @property
    def news(self) -> News:
        return self._listener.news

    def close(self) -> None:
        self._listener.close()
        self._writers.close()
        self._readers.close()


class PipelinedConnection:
    """A connection that appends, in the driver's pipeline mode.

    Leaving a pipeline costs a round trip, so it is never left.
    """

    def __init__(self, connection: PatientConnection) -> None:
        self.connection: Any = connection
        self._open = ExitStack()
        self.pipeline: Any = self._open.enter_context(connection.pipeline())

    def end_transaction(self) -> None:
        """Let what follows commit, and fail, apart from what came before."""
        # The public way waits for the answers.
        self.pipeline._enqueue_sync()

    def recover(self) -> None:
        """Make it usable again after an error, without the turn that it may have."""
        synchronise(self.pipeline)
        try:
            run_all(self.connection, self.pipeline, [(_END_ALL_TURNS, ())])
        except Exception:
            self.close()

    def close(self) -> None:
        """Disconnect without a word: a server that is silent would be waited for."""
        self.connection.close()
        with suppress(Exception):
            self._open.close()


def _require_open(writer: PipelinedConnection) -> None:
    if writer.connection.closed or writer.connection.broken:
        raise psycopg.OperationalError("the connection is closed")


def _settle(connection: psycopg.Connection[Any]) -> None:
    """End what a borrower left open; raises when the connection is gone."""
    status = connection.info.transaction_status
    if status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
        connection.rollback()
    elif status is not TransactionStatus.IDLE:
        raise psycopg.OperationalError(f"the connection is left in state {status.name}")


class PostgresSession:
    """Reads and an append of a `PostgresBackend`; nothing is locked in between."""

    def __init__(self, backend: PostgresBackend) -> None:
        self.execute_all = backend.execute_all
        self.append = backend.append


class PostgresTransaction:
    """A transaction of a `PostgresBackend`, in the driver's pipeline mode.

    BEGIN travels with the first statement.
    """

    def __init__(self, connection: Any, pipeline: Any) -> None:
        self._connection = connection
        self._pipeline = pipeline
        self._begun = False

    def execute(
        self, statement: str, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        return self.execute_all([(statement, parameters)])[0]

    def execute_all(
        self, statements: Sequence[tuple[str, Sequence[Any]]]
    ) -> list[list[tuple[Any, ...]]]:
        with translated():
            if not self._begun:
                self._connection.execute("BEGIN")
                self._begun = True
            return run_all(self._connection, self._pipeline, statements)

    def commit(self) -> None:
        """Commit what has been done."""
        with translated(at_commit=True):
            self._connection.execute("COMMIT")
            self._pipeline.sync()
        self._begun = False

    def rollback(self) -> None:
        """Undo what has not been committed."""
        if not self._begun or self._connection.closed:
            return
        self._begun = False
        synchronise(self._pipeline)
        with suppress(Exception):
            self._connection.execute("ROLLBACK")
            self._pipeline.sync()


def run_all(
    connection: Any, pipeline: Any, statements: Sequence[tuple[str, Sequence[Any]]]
) -> list[list[tuple[Any, ...]]]:
    """Run statements in one round trip and return the rows of each."""
    cursors = [connection.execute(text, values or None) for text, values in statements]
    send_all(connection)
    pipeline.sync()
    return [cursor.fetchall() if cursor.description else [] for cursor in cursors]


def synchronise(pipeline: Any) -> None:
    """Make a pipeline usable again: an error leaves it aborted until it is synchronised."""
    with suppress(Exception):
        pipeline.sync()


def _is_answered(cursor: Any) -> bool:
    """Tell whether a call was answered, whatever failed beside it."""
    result = cursor.pgresult
    return result is not None and result.status == ExecStatus.TUPLES_OK


def _lonely(command_id: str, outcome: Rejected) -> Commit:
    return Commit(
        command_id=command_id,
        first_position=None,
        last_position=None,
        recorded_at=None,
        outcomes=(outcome,),
    )
