"""The ledger on a database: an adapter of the port to the event store."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from orchd.breakers import BreakerState
from orchd.errors import StateError
from orchd.ledger.bodies import load_bodies
from orchd.ledger.dialects import Dialect
from orchd.ledger.leases import Leases
from orchd.ledger.locking import WriterLock
from orchd.ledger.news import NewsHub
from orchd.ledger.plan import TASK_STREAM
from orchd.ledger.port import (
    Bodies,
    Census,
    LedgerUnavailable,
    LogEntry,
    Look,
    Outcome,
    QueueView,
    Request,
    SubmitTask,
    TaskFilter,
    TaskPage,
    WorkerView,
)
from orchd.ledger.reads import Reads
from orchd.ledger.rows import log_entry
from orchd.ledger.writer import Writer
from orchd.tasks.state import TaskState
from orchd_eventstore import EventStore, StoreUnavailable

READER_THREADS = 4
LARGE_REQUESTS = 16
"""From how many requests on a commit is handed over before anything else is done."""
HAND_OVER_SECONDS = 0.05
"""How long the event loop waits for that at most."""
READ_SECONDS = 5.0
"""How long a reader waits for a database that may never answer."""

P = ParamSpec("P")
T = TypeVar("T")


class SQLLedger:
    """State in SQLite or PostgreSQL; `orchd.ledger.opening.open_ledger` makes one.

    One thread commits and a few others read. On PostgreSQL two commit, and one more keeps
    the leases, so that a long commit does not cost a worker its life.

    Args:
        store: the event store, opened with `orchd.ledger.schema.PROJECTIONS`.
        dialect: the store's database.
        lock: what keeps other processes from writing; released by `close`.
    """

    durable = True

    def __init__(
        self,
        store: EventStore,
        dialect: Dialect,
        lock: WriterLock | None = None,
    ) -> None:
        self.store = store
        self.dialect = dialect
        self.sole_writer = not dialect.is_postgresql
        # While a server carries one out, the next is put together and sent, and the server
        # need not wait for it.
        self.commits_max = store.appends_max
        self._lock = lock
        self._reads = Reads(store, dialect)
        self._leases = Leases(dialect, self._execute, store.now)
        self._writer = Writer(store, dialect, self._ask)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writing = ThreadPoolExecutor(self.commits_max, "orchd-ledger-write")
        self._reading = ThreadPoolExecutor(READER_THREADS, "orchd-ledger-read")
        # What is read again and again, by one thread as long as the database answers. A
        # pool wakes two of its idle threads for each call.
        self._watching = ThreadPoolExecutor(READER_THREADS, "orchd-ledger-watch")
        self._leasing = (
            ThreadPoolExecutor(1, "orchd-ledger-lease")
            if dialect.is_postgresql
            else self._writing
        )
        self._news = NewsHub(store)
        self._committing = threading.local()
        store.when_sent(self._note_sent)
        self._commits = self._lease_calls = 0
        """How many of each are under way."""
        self._call_ended = asyncio.Event()
        self._closed = False

    # --- the life of the ledger -------------------------------------------------------

    async def open(self) -> None:
        """Check that the database answers; raises `LedgerUnavailable` otherwise."""
        await self.log_position()

    async def close(self) -> None:
        """Disconnect and let others write; idempotent."""
        await asyncio.to_thread(self.close_blocking)

    def close_blocking(self) -> None:
        """Do what `close` does, for callers without an event loop; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._news.close()
        for pool in {self._writing, self._reading, self._watching, self._leasing}:
            pool.shutdown(wait=True)
        self.store.close()
        if self._lock is not None:
            self._lock.__exit__(None, None, None)

    async def _in(
        self,
        pool: ThreadPoolExecutor,
        function: Callable[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        return await self._answer(self._begin(pool, function, *args, **kwargs))

    def _begin(
        self,
        pool: ThreadPoolExecutor,
        function: Callable[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> asyncio.Future[T]:
        if self._closed:
            raise LedgerUnavailable("the ledger is closed")
        call = functools.partial(function, *args, **kwargs)
        return asyncio.get_running_loop().run_in_executor(pool, call)

    async def _answer(self, call: asyncio.Future[T]) -> T:
        try:
            return await call
        except StoreUnavailable as error:
            raise LedgerUnavailable(str(error)) from error

    async def _read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._patiently(self._reading, function, *args, **kwargs)

    async def _watch(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._patiently(self._watching, function, *args, **kwargs)

    async def _patiently(
        self,
        pool: ThreadPoolExecutor,
        function: Callable[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        try:
            async with asyncio.timeout(READ_SECONDS):
                return await self._in(pool, function, *args, **kwargs)
        except TimeoutError:
            # The thread is left to the time limits of the connection that it waits for.
            message = f"the database has not answered for {READ_SECONDS:g} seconds"
            raise LedgerUnavailable(message) from None

    async def now(self) -> int:
        return await self._read(self.store.now)

    # --- writing ----------------------------------------------------------------------

    async def commit(
        self, requests: Sequence[Request], *, command_id: str
    ) -> list[Outcome]:
        while self._commits and self._lease_calls:
            # A claim shares the row of its worker's lease. If one followed on the other
            # before that has ended, again and again, a renewal would never get the row.
            self._call_ended.clear()
            await self._call_ended.wait()
        self._commits += 1
        try:
            return await self._send(requests, command_id)
        finally:
            self._commits -= 1
            self._call_ended.set()

    async def _send(self, requests: Sequence[Request], command_id: str) -> list[Outcome]:
        self._loop = asyncio.get_running_loop()
        handed_over = threading.Event()
        call = self._begin(self._writing, self._commit, requests, command_id, handed_over)
        if self.commits_max > 1 and len(requests) >= LARGE_REQUESTS:
            # Python runs one thread at a time. The database can begin when this batch has
            # been put together, and runs that take turns with that only delay it: they go
            # on while the database works.
            handed_over.wait(HAND_OVER_SECONDS)
        return await self._answer(call)

    def _commit(
        self, requests: Sequence[Request], command_id: str, handed_over: threading.Event
    ) -> list[Outcome]:
        self._committing.handed_over = handed_over
        try:
            self._keep_lock()
            return self._writer.commit(requests, command_id)
        finally:
            handed_over.set()

    def _note_sent(self) -> None:
        # Whoever appends calls this, and that need not be a commit of this ledger.
        handed_over = getattr(self._committing, "handed_over", None)
        if handed_over is not None:
            handed_over.set()

    def _keep_lock(self) -> None:
        if self._lock is None:
            return
        try:
            self._lock.keep()
        except StateError as error:
            raise LedgerUnavailable(str(error)) from error

    def _ask(self, gate: Callable[[], bool]) -> bool:
        # The gate is the user's and is called where all of the user's code is called.
        if self._loop is None:
            return gate()
        # Who waits for the end of the hand-over cannot answer.
        self._note_sent()
        answer: Future[bool] = Future()

        def call() -> None:
            try:
                answer.set_result(gate())
            except BaseException as error:
                answer.set_exception(error)

        self._loop.call_soon_threadsafe(call)
        return answer.result()

    def _execute(self, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        if self.dialect.is_postgresql:
            # A connection of the pool, since the writer's may be in a long commit.
            with self.store.connect_reader() as connection:
                result = connection.execute(statement, tuple(parameters))
                return result.fetchall() if result.description else []
        self._keep_lock()
        with self.store.transaction() as transaction:
            rows = transaction.execute(statement, parameters)
            transaction.commit()
            return rows

    # --- tasks ------------------------------------------------------------------------

    async def task(self, task_id: str) -> TaskState | None:
        return await self._read(self._reads.task, task_id)

    async def taken(self, requests: Sequence[SubmitTask]) -> list[Outcome | None]:
        return await self._read(self._reads.taken, requests)

    async def bodies(self, state: TaskState) -> Bodies:
        [bodies] = await self._read(load_bodies, [state], self.store.blobs)
        return bodies

    async def tasks(
        self, task_filter: TaskFilter, *, limit: int, cursor: str | None = None
    ) -> TaskPage:
        return await self._read(self._reads.tasks, task_filter, limit, cursor)

    async def held_by(self, worker_id: str, *, limit: int) -> list[TaskState]:
        return await self._read(self._reads.held_by, worker_id, limit)

    async def cancel_requests(self, worker_id: str) -> list[str]:
        return await self._watch(self._reads.cancel_requests, worker_id)

    # --- the log ----------------------------------------------------------------------

    async def task_events(self, task_id: str) -> list[LogEntry]:
        events = await self._read(self.store.read_stream, TASK_STREAM + task_id)
        return [log_entry(event) for event in events]

    async def log(self, *, after: int, limit: int) -> list[LogEntry]:
        events = await self._read(self.store.read_all, after=after, limit=limit)
        return [log_entry(event) for event in events]

    async def log_position(self) -> int:
        return (await self._read(self.store.head)).position

    async def event_counts(self) -> Mapping[str, int]:
        return await self._read(self._reads.event_counts)

    # --- queues, breakers, work to do -------------------------------------------------

    async def queues(self) -> list[QueueView]:
        return await self._read(self._reads.queues)

    async def breakers(self) -> list[BreakerState]:
        return await self._read(self._reads.breakers)

    async def look(self) -> Look:
        return await self._watch(self._reads.look)

    async def has_work(
        self,
        executors: tuple[str, ...],
        verifiers: tuple[str, ...],
        queues: tuple[str, ...] = ("*",),
    ) -> bool:
        return await self._read(self._reads.has_work, executors, verifiers, queues)

    async def has_waiting(self, executor: str) -> bool:
        """Tell whether a task waits for nothing but this executor, breakers aside."""
        now = await self.now()
        return await self._read(self._reads.has_waiting, executor, now)

    async def has_probe(self, breaker: BreakerState) -> bool:
        return await self._read(self._reads.has_probe, breaker)

    # --- leases -----------------------------------------------------------------------

    async def _lease(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        self._lease_calls += 1
        try:
            return await self._in(self._leasing, function, *args, **kwargs)
        finally:
            self._lease_calls -= 1
            self._call_ended.set()

    async def register_worker(self, worker: WorkerView, lease_seconds: float) -> None:
        await self._lease(self._leases.register, worker, lease_seconds)

    async def advertise_worker(
        self, worker_id: str, executors: tuple[str, ...], verifiers: tuple[str, ...]
    ) -> bool:
        return await self._lease(self._leases.advertise, worker_id, executors, verifiers)

    async def renew_worker(self, worker_id: str, lease_seconds: float) -> bool:
        return await self._lease(self._leases.renew, worker_id, lease_seconds)

    async def retire_worker(self, worker_id: str) -> None:
        await self._lease(self._leases.retire, worker_id)

    async def fence_worker(self, worker_id: str, *, only_if_expired: bool) -> bool:
        return await self._lease(
            self._leases.fence, worker_id, only_if_expired=only_if_expired
        )

    async def workers(self) -> list[WorkerView]:
        return await self._read(self._reads.workers)

    async def census(self, worker_id: str, *, limit: int) -> Census:
        return await self._read(self._reads.census, worker_id, limit)

    # --- news -------------------------------------------------------------------------

    def news(self) -> AsyncIterator[None]:
        """Yield at once, when the log may have grown, and at least every five seconds."""
        return self._news.listen()
