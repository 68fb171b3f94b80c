"""The ledger port on the simulated database; how calls get there is a `Route`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from orchd.breakers import BreakerState
from orchd.interfaces import TaskStatus
from orchd.ledger.bodies import load_bodies
from orchd.ledger.port import (
    ActOnBreaker,
    ActOnTask,
    Bodies,
    Census,
    ClaimTasks,
    LedgerUnavailable,
    LogEntry,
    Look,
    Outcome,
    QueueView,
    RecordDaemon,
    Request,
    SetQueue,
    SubmitTask,
    TaskFilter,
    TaskPage,
    WorkerView,
)
from orchd.tasks.state import Phase, TaskState
from simulation.claiming import serves
from simulation.database import Database
from simulation.listing import page

T = TypeVar("T")

NEWS_SECONDS = 1.0
"""Longest time between two hints, should every notification be lost."""


class Route(Protocol):
    """How a call reaches the database and its answer comes back."""

    async def read(self, read: Callable[[], T]) -> T: ...

    async def write(
        self, kinds: Sequence[str], write: Callable[[], T], command_id: str = ""
    ) -> T: ...


class DirectRoute:
    """Nothing goes wrong and nothing takes time."""

    async def read(self, read: Callable[[], T]) -> T:
        return read()

    async def write(
        self, kinds: Sequence[str], write: Callable[[], T], command_id: str = ""
    ) -> T:
        return write()


class News:
    """Hints for one listener."""

    def __init__(self, fallback_seconds: float | None) -> None:
        self.hint = asyncio.Event()
        self.hint.set()
        self._fallback_seconds = fallback_seconds

    def __aiter__(self) -> News:
        return self

    async def __anext__(self) -> None:
        alarm = None
        if self._fallback_seconds is not None:
            loop = asyncio.get_running_loop()
            alarm = loop.call_later(self._fallback_seconds, self.hint.set)
        await self.hint.wait()
        if alarm is not None:
            alarm.cancel()
        self.hint.clear()


class SimulatedLedger:
    """One process's connection to the database.

    Args:
        fallback_seconds: after so long without news there is a hint all the same; None
            loses hints for good.
        on_broken_rule: told when the caller breaks the port's rule of repetition.
    """

    durable = True

    def __init__(
        self,
        database: Database,
        route: Route,
        *,
        sole_writer: bool = False,
        fallback_seconds: float | None = NEWS_SECONDS,
        on_broken_rule: Callable[[str], object] | None = None,
    ) -> None:
        self.database = database
        self.sole_writer = sole_writer
        self.commits_max = 1 if sole_writer else 2
        self.listeners: list[News] = []
        self._route = route
        self._fallback_seconds = fallback_seconds
        self._on_broken_rule = on_broken_rule
        self._open: dict[str, list[Request]] = {}
        """Commands under way, and those of which nothing is known yet."""
        self._under_way: set[str] = set()

    async def open(self) -> None:
        """Check that the database answers."""
        await self.log_position()

    async def close(self) -> None:
        """Do nothing: nothing is held."""

    async def now(self) -> int:
        return await self._route.read(self.database.clock)

    # --- writing ----------------------------------------------------------------------

    async def commit(
        self, requests: Sequence[Request], *, command_id: str
    ) -> list[Outcome]:
        given = list(requests)
        self._require_order(command_id, given)
        self._open[command_id] = given
        self._under_way.add(command_id)
        try:
            outcomes = await self._route.write(
                kinds_of(given),
                lambda: self.database.commit(given, command_id),
                command_id,
            )
        except LedgerUnavailable:
            raise
        except BaseException:
            del self._open[command_id]
            raise
        finally:
            self._under_way.remove(command_id)
        del self._open[command_id]
        return outcomes

    def _require_order(self, command_id: str, requests: list[Request]) -> None:
        if self._on_broken_rule is None:
            return
        if command_id in self._under_way:
            self._on_broken_rule(f"{command_id} is sent again while it is under way")
        elif self._open.get(command_id, requests) != requests:
            self._on_broken_rule(f"{command_id} is repeated with other requests")
        elif command_id not in self._open and len(self._open) >= self.commits_max:
            known = " and ".join(self._open)
            self._on_broken_rule(f"{command_id} was sent before {known} is known")

    async def _lease(self, kind: str, write: Callable[[], T]) -> T:
        return await self._route.write((f"lease/{kind}",), write)

    async def register_worker(self, worker: WorkerView, lease_seconds: float) -> None:
        await self._lease("register", lambda: self.database.register(worker, lease_seconds))

    async def advertise_worker(
        self, worker_id: str, executors: tuple[str, ...], verifiers: tuple[str, ...]
    ) -> bool:
        return await self._lease(
            "advertise", lambda: self.database.advertise(worker_id, executors, verifiers)
        )

    async def renew_worker(self, worker_id: str, lease_seconds: float) -> bool:
        return await self._lease(
            "renew", lambda: self.database.renew(worker_id, lease_seconds)
        )

    async def retire_worker(self, worker_id: str) -> None:
        await self._lease("retire", lambda: self.database.retire(worker_id))

    async def fence_worker(self, worker_id: str, *, only_if_expired: bool) -> bool:
        return await self._lease(
            "fence",
            lambda: self.database.fence(worker_id, only_if_expired=only_if_expired),
        )

    # --- reads ------------------------------------------------------------------------

    async def task(self, task_id: str) -> TaskState | None:
        return await self._route.read(lambda: self.database.tasks.get(task_id))

    async def taken(self, requests: Sequence[SubmitTask]) -> list[Outcome | None]:
        return await self._route.read(lambda: list(map(self.database.taken, requests)))

    async def bodies(self, state: TaskState) -> Bodies:
        [bodies] = await self._route.read(
            lambda: load_bodies([state], lambda digests: self.database.blobs)
        )
        return bodies

    async def tasks(
        self, task_filter: TaskFilter, *, limit: int, cursor: str | None = None
    ) -> TaskPage:
        return await self._route.read(
            lambda: page(self.database.tasks.values(), task_filter, limit, cursor)
        )

    async def task_events(self, task_id: str) -> list[LogEntry]:
        stream = f"task-{task_id}"
        return await self._route.read(lambda: [*self.database.streams.get(stream, ())])

    async def log(self, *, after: int, limit: int) -> list[LogEntry]:
        return await self._route.read(lambda: self.database.log[after : after + limit])

    async def log_position(self) -> int:
        return await self._route.read(lambda: len(self.database.log))

    async def queues(self) -> list[QueueView]:
        return await self._route.read(lambda: _queues(self.database))

    async def breakers(self) -> list[BreakerState]:
        return await self._route.read(lambda: [*self.database.breakers.values()])

    async def event_counts(self) -> Mapping[str, int]:
        return await self._route.read(lambda: Counter(x.type for x in self.database.log))

    async def look(self) -> Look:
        return await self._route.read(lambda: _look(self.database))

    async def has_work(
        self,
        executors: tuple[str, ...],
        verifiers: tuple[str, ...],
        queues: tuple[str, ...] = ("*",),
    ) -> bool:
        return await self._route.read(
            lambda: has_work(self.database, executors, verifiers, queues)
        )

    async def has_waiting(self, executor: str) -> bool:
        return await self._route.read(lambda: _has_waiting(self.database, executor))

    async def has_probe(self, breaker: BreakerState) -> bool:
        return await self._route.read(lambda: _has_probe(self.database, breaker))

    async def workers(self) -> list[WorkerView]:
        return await self._route.read(lambda: [*self.database.workers.values()])

    async def held_by(self, worker_id: str, *, limit: int) -> list[TaskState]:
        return await self._route.read(lambda: self.database.held_by(worker_id)[:limit])

    async def census(self, worker_id: str, *, limit: int) -> Census:
        return await self._route.read(
            lambda: Census(
                [*self.database.workers.values()],
                self.database.held_by(worker_id)[:limit],
            )
        )

    async def cancel_requests(self, worker_id: str) -> list[str]:
        return await self._route.read(
            lambda: [s.id for s in self.database.held_by(worker_id) if s.cancel_requested]
        )

    def news(self) -> AsyncIterator[None]:
        """Yield at once, and whenever the log may have grown."""
        news = News(self._fallback_seconds)
        self.listeners.append(news)
        return news


def kinds_of(requests: Sequence[Request]) -> list[str]:
    """Return what kinds of writes a commit holds; see `simulation.coverage`."""
    return [_kind_of(request) for request in requests]


def _kind_of(request: Request) -> str:
    if isinstance(request, ActOnTask):
        return f"act/{type(request.command).__name__}"
    if isinstance(request, ClaimTasks):
        if request.probe is not None:
            return "claim/probe"
        return "claim/alone" if request.alone else "claim"
    if isinstance(request, ActOnBreaker):
        return f"breaker/{type(request.command).__name__}"
    if isinstance(request, SetQueue):
        return f"queue/{'pause' if request.pause else 'resume'}"
    if isinstance(request, RecordDaemon):
        return f"daemon/{type(request.event).__name__}"
    return "submit"


def has_work(
    database: Database,
    executors: tuple[str, ...],
    verifiers: tuple[str, ...],
    queues: tuple[str, ...],
) -> bool:
    """Tell whether anything can still go on without a person."""
    schedule = database.schedule
    for state in database.tasks.values():
        if state.status is TaskStatus.IN_PROGRESS:
            return True
        if not (schedule.is_ready(state.id) or state.id in schedule.timers):
            continue
        queue = database.queues.get(state.queue)
        if (queue is not None and queue.paused) or not serves(queues, state.queue):
            continue
        if state.phase is Phase.EXECUTE:
            if state.executor in executors:
                return True
        elif set(state.verifiers) <= set(verifiers):
            return True
    return False


def _look(database: Database) -> Look:
    due = min(database.schedule.timers.values(), default=None)
    return Look(
        now=database.clock(),
        position=len(database.log),
        next_due=due,
        is_any_ready=bool(database.schedule.ready),
    )


def _has_waiting(database: Database, executor: str) -> bool:
    now = database.clock()
    for state in database.tasks.values():
        if state.executor != executor or state.phase is not Phase.EXECUTE:
            continue
        queue = database.queues.get(state.queue)
        if queue is not None and queue.paused:
            continue
        if database.schedule.is_ready(state.id):
            return True
        if database.schedule.timers.get(state.id, now + 1) <= now:
            return True
    return False


def _has_probe(database: Database, breaker: BreakerState) -> bool:
    return any(
        state.executor == breaker.name
        and state.phase is Phase.EXECUTE
        and (state.started_at or 0) >= breaker.changed_at
        for state in database.held_by(breaker.worker or "")
    )


def _queues(database: Database) -> list[QueueView]:
    names = {state.queue for state in database.tasks.values()} | database.queues.keys()
    return [_queue_view(database, name) for name in sorted(names)]


def _queue_view(database: Database, name: str) -> QueueView:
    state, schedule = database.queues.get(name), database.schedule
    ready = [
        schedule.ready_since(task.id)
        for task in database.tasks.values()
        if task.queue == name and schedule.is_ready(task.id)
    ]
    return QueueView(
        name=name,
        paused=state is not None and state.paused,
        reason="" if state is None else state.reason,
        depth={status.value: schedule.depth[name, status] for status in TaskStatus},
        oldest_ready_at=min(ready, default=None),
        version=0 if state is None else state.version,
        changed_at=None if state is None else state.changed_at,
    )
