"""Measures orchd on the user's own database, in a place of its own that is dropped after.

SQLite: a file beside the state, so on the same disk. PostgreSQL: a database of its own on
the same server, which the role must be allowed to create.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from orchd.config.settings import ExecutorSettings, Settings, WorkerSettings
from orchd.engine.engine import Engine
from orchd.engine.observer import Observer, TaskNews
from orchd.errors import StateUnreadable
from orchd.executors.echo import EchoExecutor
from orchd.interfaces import TaskStatus
from orchd.ledger.opening import open_ledger, postgresql_connection
from orchd.ledger.port import Origin, SubmitTask
from orchd.ledger.urls import is_sqlite, sqlite_path
from orchd.maintenance.progress import Progress, silent
from orchd.maintenance.replay import Options, check
from orchd.system import System
from orchd.tasks.commands import Submit
from orchd.tasks.events import TaskSubmitted
from orchd_eventstore.addresses import with_database

BATCH_TASKS = 100
"""Tasks in one call while enqueueing."""
LATENCY_TASKS = 100
ORIGIN = Origin(actor="bench")
ECHO = ExecutorSettings(name="echo", type="echo")


class BenchReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured."""

    database: str
    tasks: int
    concurrency: int
    enqueue_per_second: float
    drain_per_second: float
    """Claim, execution and completion of echo tasks, each a durable event."""
    latency_p50_seconds: float
    """From the call that submits one task to the commit that completes it."""
    latency_p99_seconds: float
    replay_per_second: float
    """Events folded and compared with their rows."""

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return msgspec.structs.asdict(self)

    def lines(self) -> list[str]:
        """Return the report for people."""
        return [
            f"{self.database}: {self.tasks} tasks, concurrency {self.concurrency}",
            f"  enqueue  {self.enqueue_per_second:10,.0f} tasks/s",
            f"  drain    {self.drain_per_second:10,.0f} tasks/s",
            f"  latency  {self.latency_p50_seconds * 1000:10.1f} ms in the median, "
            f"{self.latency_p99_seconds * 1000:.1f} ms for 99 of 100",
            f"  replay   {self.replay_per_second:10,.0f} events/s",
        ]


def run(
    url: str,
    *,
    system: System,
    tasks: int = 2000,
    concurrency: int = 64,
    progress: Progress | None = None,
) -> BenchReport:
    """Measure on the database of `url`; what is written is dropped afterwards.

    Raises:
        StateUnreadable: the place for the measurement cannot be made.
    """
    with _place(url, system) as place:
        bench = _Bench(place, system, concurrency, progress or silent)
        return asyncio.run(bench.measure(tasks))


@contextmanager
def _place(url: str, system: System) -> Iterator[str]:
    name = f"orchd_bench_{system.new_id().replace('-', '')}"
    if is_sqlite(url):
        yield from _file(url, name)
    else:
        yield from _database(url, name)


def _file(url: str, name: str) -> Iterator[str]:
    path = sqlite_path(url).with_name(f"{name}.db")
    try:
        yield f"sqlite:///{path}"
    finally:
        for end in ("", "-wal", "-shm", ".lock"):
            with suppress(OSError):
                path.with_name(path.name + end).unlink()


def _database(url: str, name: str) -> Iterator[str]:
    import psycopg

    try:
        with postgresql_connection(url) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    except psycopg.Error as error:
        raise StateUnreadable(
            f"cannot make a database for the measurement: {error}"
        ) from error
    try:
        yield with_database(url, name)
    finally:
        with postgresql_connection(url) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


class _Finished(Observer):
    """Notes when each task completed."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.moments: dict[str, float] = {}
        self.signal = asyncio.Event()

    def task_moved(self, news: TaskNews) -> None:
        if news.after.status is TaskStatus.COMPLETED:
            self.moments[news.after.id] = self._system.monotonic()
            self.signal.set()

    async def wait_for(self, task_id: str) -> float:
        while task_id not in self.moments:
            self.signal.clear()
            await self.signal.wait()
        return self.moments[task_id]


class _Bench:
    """One measurement on one empty database."""

    def __init__(
        self, url: str, system: System, concurrency: int, progress: Progress
    ) -> None:
        self._url = url
        self._system = system
        self._progress = progress
        self._settings = Settings(
            database=url,
            worker=WorkerSettings(concurrency=concurrency),
            executors={"echo": ECHO},
        )

    async def measure(self, tasks: int) -> BenchReport:
        """Enqueue, drain, look at single tasks, replay."""
        ledger = open_ledger(
            self._url, system=self._system, access="write", create=True, migrate=True
        )
        await ledger.open()
        try:
            finished = _Finished(self._system)
            engine = Engine(
                ledger=ledger,
                executors={"echo": EchoExecutor(ECHO)},
                verifiers={},
                settings=self._settings,
                system=self._system,
                observers=(finished,),
            )
            await engine.start(claim=False)
            enqueue = await self._enqueue(engine, tasks)
            drain = await self._drain(engine)
            latencies = await self._latencies(engine, finished)
            await engine.stop()
            events = await ledger.log_position()
        finally:
            await ledger.close()
        replay = await asyncio.to_thread(self._replay)
        return BenchReport(
            database="SQLite" if is_sqlite(self._url) else "PostgreSQL",
            tasks=tasks,
            concurrency=self._settings.worker.concurrency,
            enqueue_per_second=tasks / enqueue,
            drain_per_second=tasks / drain,
            latency_p50_seconds=_quantile(latencies, 0.5),
            latency_p99_seconds=_quantile(latencies, 0.99),
            replay_per_second=events / replay,
        )

    async def _enqueue(self, engine: Engine, tasks: int) -> float:
        started = self._system.monotonic()
        for first in range(0, tasks, BATCH_TASKS):
            numbers = range(first, min(tasks, first + BATCH_TASKS))
            await engine.requests([self._request(f"t{number}") for number in numbers])
            self._progress("enqueue", numbers[-1] + 1, tasks)
        return self._system.monotonic() - started

    async def _drain(self, engine: Engine) -> float:
        started = self._system.monotonic()
        engine.resume_claims()
        await engine.wait_until_idle()
        return self._system.monotonic() - started

    async def _latencies(self, engine: Engine, finished: _Finished) -> list[float]:
        seconds = []
        for number in range(LATENCY_TASKS):
            started = self._system.monotonic()
            await engine.request(self._request(f"single{number}"))
            seconds.append(await finished.wait_for(f"single{number}") - started)
            self._progress("latency", number + 1, LATENCY_TASKS)
        await engine.wait_until_idle()
        return seconds

    def _request(self, task_id: str) -> SubmitTask:
        submitted = TaskSubmitted(
            description=f"echo {task_id}",
            executor="echo",
            max_attempts=3,
            body_hash=task_id,
        )
        command = Submit(now=self._system.now(), submitted=submitted)
        return SubmitTask(task_id=task_id, command=command, origin=ORIGIN)

    def _replay(self) -> float:
        started = self._system.monotonic()
        options = Options(progress=self._progress)
        wrong = next(check(self._url, system=self._system, options=options), None)
        if wrong is not None:
            raise StateUnreadable(f"the measurement left a wrong row behind: {wrong}")
        return self._system.monotonic() - started


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
