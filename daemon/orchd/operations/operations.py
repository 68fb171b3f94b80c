"""Everything that can be asked of orchd, whoever asks: HTTP, the command line, a test."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from orchd.breakers import Close
from orchd.config.settings import Settings
from orchd.engine.clock import LedgerClock
from orchd.ledger.port import (
    Acted,
    ActOnBreaker,
    ActOnTask,
    Bodies,
    Ledger,
    LogEntry,
    Outcome,
    Refusal,
    Request,
    SetQueue,
    TaskFilter,
)
from orchd.operations.dead_letters import DeadLetterPage, DeadLetters, read_choice
from orchd.operations.errors import Fault, NotFound, OperationError, TooLarge, invalid
from orchd.operations.intake import (
    BATCH_TASKS_MAX,
    Accepted,
    Caller,
    Committer,
    Intake,
    Prepared,
    in_item,
    key_of_item,
    refusal_error,
)
from orchd.operations.names import NAME_RULE, is_id, is_name
from orchd.operations.news import NewsHub
from orchd.operations.reasons import why
from orchd.operations.submission import Known
from orchd.operations.surroundings import Surroundings, limits_of
from orchd.operations.upkeep import Upkeep
from orchd.operations.views import (
    BreakerInfo,
    EventView,
    QueueInfo,
    TaskView,
    View,
    WorkerInfo,
    breaker_info,
    event_view,
    listed_task,
    queue_info,
    task_view,
    worker_info,
)
from orchd.system import System
from orchd.tasks.commands import Cancel
from orchd.tasks.state import TaskState

CLOCK_SECONDS = 1.0
"""How often the ledger's clock is asked for."""
STALE_SECONDS = 1.0
"""How old the known daemons and the surroundings of a new task may be."""
INLINE_BYTES_MAX = 8 * 1024 * 1024
"""How many bytes of events one page of the log holds, unless one event has more."""


class SubmittedTask(View, frozen=True, kw_only=True):
    """A submission's answer; `created` is false when it was accepted before."""

    task: TaskView
    created: bool


class Each(View, frozen=True, kw_only=True):
    """What became of one task of many.

    `outcome` is `created`, `existing` or `refused`; `code`, `detail` and `errors` say
    why it was refused.
    """

    id: str | None
    outcome: str
    code: str | None = None
    detail: str | None = None
    errors: tuple[Fault, ...] = ()


class TaskListing(View, frozen=True, kw_only=True):
    """One page of tasks."""

    items: list[TaskView]
    next_cursor: str | None


class Why(View, frozen=True, kw_only=True):
    """Why a task is where it is."""

    id: str
    status: str
    reasons: list[str]


class Operations:
    """What can be asked of orchd.

    Args:
        ledger: where the state is.
        commit: carries out requests and answers in order, durably: an engine's
            `requests`, or a ledger's own `commit`.
        settings: the configuration; `swap_settings` replaces it.
        system: clock, ids and sleep.

    Every method may raise `LedgerUnavailable`, and otherwise only `OperationError`.
    """

    def __init__(
        self, *, ledger: Ledger, commit: Committer, settings: Settings, system: System
    ) -> None:
        self.ledger = ledger
        self.news = NewsHub(ledger, system)
        self._commit = commit
        self._settings = settings
        self._system = system
        self._clock = LedgerClock(ledger, system)
        self._synchronised_at: float | None = None
        self._around: tuple[float, Surroundings] | None = None
        self._look: asyncio.Task[Surroundings] | None = None
        self._known: tuple[Surroundings, Known] | None = None
        self._intake = Intake(ledger, commit, system)
        self._dead_letters = DeadLetters(ledger, commit, system, self.now)
        self.upkeep = Upkeep(ledger, commit, system)

    def swap_settings(self, settings: Settings) -> None:
        """Use another configuration from now on."""
        self._settings = settings
        self._around = self._known = self._look = None

    async def close(self) -> None:
        """Let go of everybody who waits; idempotent."""
        await self.news.close()

    # --- submissions ------------------------------------------------------------------

    async def submit(
        self, body: Any, caller: Caller, *, key: str | None = None
    ) -> SubmittedTask:
        """Accept one task; `key` is an idempotency key that came beside the body."""
        around, known, now = await self._for_submissions()
        body = _with_key(body, key)
        prepared = self._intake.prepare(body, self._settings, known, now, caller)
        accepted = await self._intake.submit(prepared)
        return await self._submitted(accepted, around)

    async def submit_all(
        self, bodies: Sequence[Any], caller: Caller, *, key: str | None = None
    ) -> list[SubmittedTask]:
        """Accept several tasks, all or nothing."""
        _check_batch(bodies)
        around, known, now = await self._for_submissions()
        batch: list[Prepared] = []
        faults: list[Fault] = []
        for index, body in enumerate(bodies):
            try:
                keyed = _with_key(body, None if key is None else key_of_item(key, index))
                one = self._intake.prepare(keyed, self._settings, known, now, caller)
                batch.append(one)
            except OperationError as error:
                faults += in_item(index, error)
        if faults:
            raise invalid(faults)
        accepted = await self._intake.submit_all(batch, caller)
        return [await self._submitted(one, around) for one in accepted]

    async def submit_each(
        self, bodies: Sequence[Any], caller: Caller, *, key: str | None = None
    ) -> list[Each]:
        """Accept of several tasks those that can be accepted."""
        _check_batch(bodies)
        _, known, now = await self._for_submissions()
        answers: dict[int, Each] = {}
        batch: dict[int, Prepared] = {}
        for index, body in enumerate(bodies):
            try:
                keyed = _with_key(body, None if key is None else key_of_item(key, index))
                batch[index] = self._intake.prepare(
                    keyed, self._settings, known, now, caller
                )
            except OperationError as error:
                answers[index] = _refused(body, error)
        accepted = await self._intake.submit_each(list(batch.values())) if batch else []
        for index, one in zip(batch, accepted, strict=True):
            answers[index] = _each(bodies[index], one)
        return [answers[index] for index in range(len(bodies))]

    async def _for_submissions(self) -> tuple[Surroundings, Known, int]:
        around = await self._surroundings(STALE_SECONDS)
        if self._known is None or self._known[0] is not around:
            self._known = (around, known_names(self._settings, around))
        return around, self._known[1], await self.now()

    async def _submitted(self, accepted: Accepted, around: Surroundings) -> SubmittedTask:
        state = accepted.submitted.state
        created = accepted.submitted.created
        if created:
            description = accepted.resolved.submitted.description
            assert isinstance(description, str)
            payload = accepted.resolved.resolved_payload
            bodies = Bodies(description=description, payload=payload, result=None)
        else:
            bodies = await self.ledger.bodies(state)
        return SubmittedTask(task=task_view(state, bodies, around), created=created)

    # --- tasks ------------------------------------------------------------------------

    async def task(self, task_id: str, *, wait_seconds: float = 0.0) -> TaskView:
        """Return a task, when asked for as soon as it is terminal; raises `NotFound`.

        After `wait_seconds` it is returned as it is.
        """
        deadline = self._system.monotonic() + wait_seconds
        while True:
            event = self.news.listen() if wait_seconds > 0 else None
            state = await self._state(task_id)
            left = deadline - self._system.monotonic()
            if event is None or state.is_terminal or left <= 0 or self.news.closed:
                break
            await self.news.wait(event, left)
        return await self._view(state)

    async def tasks(
        self, task_filter: TaskFilter, *, limit: int, cursor: str | None
    ) -> TaskListing:
        """List tasks, newest first, long texts cut."""
        try:
            page = await self.ledger.tasks(task_filter, limit=limit, cursor=cursor)
        except ValueError as error:
            raise invalid([Fault(field="cursor", rule=str(error))]) from None
        around = await self._surroundings()
        items = []
        for state in page.tasks:
            items.append(listed_task(state, await self._bodies(state), around))
        return TaskListing(items=items, next_cursor=page.next_cursor)

    async def task_events(self, task_id: str) -> list[EventView]:
        """Return everything that happened to a task; raises `NotFound`."""
        await self._state(task_id)
        return [event_view(entry) for entry in await self.ledger.task_events(task_id)]

    async def why(self, task_id: str) -> Why:
        """Say why a task is where it is; raises `NotFound`."""
        state = await self._state(task_id)
        reasons = why(state, await self._surroundings())
        return Why(id=state.id, status=state.status.value, reasons=reasons)

    async def cancel(self, task_id: str, caller: Caller) -> TaskView:
        """Cancel a task, or ask its daemon to; raises `NotFound`, `Conflict`."""
        await self._state(task_id)
        command = Cancel(now=await self.now())
        origin = caller.origin()
        request = ActOnTask(task_id=task_id, command=command, origin=origin)
        outcome = await self._one(request)
        assert isinstance(outcome, Acted)
        return await self._view(outcome.state)

    async def act_on_dead_letters(
        self, verb: str, body: Any, caller: Caller
    ) -> DeadLetterPage:
        """`requeue` or `discard` dead letters; see `DeadLetters.act`."""
        choice = read_choice(body)
        return await self._dead_letters.act(verb, choice, caller)

    # --- queues, breakers, daemons, the log ---------------------------------------------

    async def queues(self) -> list[QueueInfo]:
        """Return every queue that has tasks, was paused or is configured."""
        around = await self._surroundings()
        return [
            queue_info(around.queues[name], around.limits.get(name))
            for name in sorted(around.queues)
        ]

    async def set_queue(self, name: str, pause: bool, caller: Caller) -> QueueInfo:
        """Pause or resume a queue and return it; raises `Invalid` for a bad name."""
        if not is_name(name):
            raise invalid([Fault(field="name", rule=NAME_RULE, value=name)])
        now = await self.now()
        await self._one(SetQueue(name=name, pause=pause, now=now, origin=caller.origin()))
        self._around = None
        for queue in await self.queues():
            if queue.name == name:
                return queue
        return _untouched_queue(name)

    async def breakers(self) -> list[BreakerInfo]:
        """Return the breaker of every executor whose breaker ever opened."""
        found = await self.ledger.breakers()
        return [breaker_info(one) for one in sorted(found, key=lambda one: one.name)]

    async def reset_breaker(self, name: str, caller: Caller) -> BreakerInfo:
        """Close a breaker and return it.

        Raises:
            NotFound: neither a breaker nor an executor has this name.
        """
        known = {one.name: one for one in await self.breakers()}
        if name not in known:
            _, names, _ = await self._for_submissions()
            if name not in names.executors:
                raise NotFound(f"there is no breaker {name!r}")
            return _closed_breaker(name)
        command = Close(now=await self.now())
        await self._one(ActOnBreaker(name=name, command=command, origin=caller.origin()))
        self._around = None
        return {one.name: one for one in await self.breakers()}[name]

    async def workers(self) -> list[WorkerInfo]:
        """Return the daemons that hold, or held, a lease."""
        now = await self.now()
        found = await self.ledger.workers()
        return [
            worker_info(one, now) for one in sorted(found, key=lambda one: one.started_at)
        ]

    async def log(
        self, *, after: int, limit: int, wait_seconds: float = 0.0
    ) -> list[LogEntry]:
        """Return events above a position; when there are none, wait for some."""
        deadline = self._system.monotonic() + wait_seconds
        while True:
            event = self.news.listen() if wait_seconds > 0 else None
            entries = await self.ledger.log(after=after, limit=limit)
            left = deadline - self._system.monotonic()
            if entries or event is None or left <= 0 or self.news.closed:
                return _within(entries, INLINE_BYTES_MAX)
            await self.news.wait(event, left)

    async def now(self) -> int:
        """Return the ledger's clock in microseconds, to within network delay."""
        at = self._system.monotonic()
        if self._synchronised_at is None:
            await self._clock.synchronise()
            self._synchronised_at = at
        elif at - self._synchronised_at > CLOCK_SECONDS:
            # Before it is known: who asks meanwhile goes by what was heard last.
            self._synchronised_at = at
            await self._clock.synchronise()
        return self._clock.now()

    # --- helpers ------------------------------------------------------------------------

    async def _state(self, task_id: str) -> TaskState:
        state = await self.ledger.task(task_id) if is_id(task_id) else None
        if state is None:
            raise NotFound(f"there is no task {task_id!r}")
        return state

    async def _view(self, state: TaskState) -> TaskView:
        pending = state.status.value == "pending"
        around = await self._surroundings(0.0 if pending else None)
        return task_view(state, await self._bodies(state), around)

    async def _bodies(self, state: TaskState) -> Bodies:
        blobs = (state.description_blob, state.payload_blob, state.result_blob)
        if any(blob is not None for blob in blobs):
            return await self.ledger.bodies(state)
        return Bodies(
            description=state.description or "",
            payload=state.payload,
            result=state.result,
        )

    async def _one(self, request: Request) -> Outcome:
        (outcome,) = await self._commit([request])
        if isinstance(outcome, Refusal):
            raise refusal_error(outcome)
        return outcome

    async def _surroundings(self, stale_seconds: float | None = 0.0) -> Surroundings:
        """Return the surroundings, at most so old; None takes any that are known."""
        at = self._system.monotonic()
        if self._around is not None and (
            stale_seconds is None or at - self._around[0] < stale_seconds
        ):
            return self._around[1]
        if stale_seconds == 0.0:
            return await self._look_around(at)
        if self._look is None or self._look.done():
            # One look for all who ask meanwhile: whenever a second is over, hundreds of
            # submissions would each ask the database the same.
            self._look = asyncio.create_task(self._look_around(at))
        return await asyncio.shield(self._look)

    async def _look_around(self, at: float) -> Surroundings:
        around = Surroundings(
            now=await self.now(),
            queues={queue.name: queue for queue in await self.ledger.queues()},
            breakers={one.name: one for one in await self.ledger.breakers()},
            workers=await self.ledger.workers(),
            limits=limits_of(self._settings),
        )
        self._around = (at, around)
        return around


def known_names(settings: Settings, around: Surroundings) -> Known:
    """Return what is configured here or advertised by a live daemon."""
    live = around.live_workers
    return Known(
        frozenset(settings.executors).union(*(worker.executors for worker in live)),
        frozenset(settings.verifiers).union(*(worker.verifiers for worker in live)),
    )


def _with_key(body: Any, key: str | None) -> Any:
    if key is None or not isinstance(body, Mapping):
        return body
    if body.get("idempotency_key") not in (None, key):
        rule = "differs from the header Idempotency-Key"
        raise invalid([Fault(field="idempotency_key", rule=rule)])
    return {**body, "idempotency_key": key}


def _check_batch(bodies: Sequence[Any]) -> None:
    if not bodies:
        raise invalid([Fault(field="", rule="must hold at least one task")])
    if len(bodies) > BATCH_TASKS_MAX:
        detail = f"a request may hold {BATCH_TASKS_MAX} tasks, not {len(bodies)}"
        raise TooLarge(detail)


def _each(body: Any, answer: Accepted | OperationError) -> Each:
    if isinstance(answer, OperationError):
        return _refused(body, answer)
    outcome = "created" if answer.submitted.created else "existing"
    return Each(id=answer.submitted.state.id, outcome=outcome)


def _refused(body: Any, error: OperationError) -> Each:
    given = body.get("id") if isinstance(body, Mapping) else None
    return Each(
        id=given if isinstance(given, str) and is_id(given) else None,
        outcome="refused",
        code=error.code,
        detail=error.detail,
        errors=error.faults,
    )


def _within(entries: list[LogEntry], size_max: int) -> list[LogEntry]:
    size = 0
    for index, entry in enumerate(entries):
        size += len(entry.data) + len(entry.meta)
        if size > size_max and index:
            return entries[:index]
    return entries


def _untouched_queue(name: str) -> QueueInfo:
    return QueueInfo(
        name=name,
        paused=False,
        reason="",
        depth={},
        oldest_ready_at=None,
        limit=None,
        changed_at=None,
        version=0,
    )


def _closed_breaker(name: str) -> BreakerInfo:
    return BreakerInfo(
        name=name,
        state="closed",
        failures=0,
        error="",
        until=None,
        changed_at=None,
        version=0,
    )
