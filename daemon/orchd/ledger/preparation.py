"""Reads and locks what a transaction has to know, and decides its requests on that.

Locks are taken in one order by everybody: tasks by id, queues and breakers by name, the
limits of queues by name, then tasks to claim, which never wait, and in the append the head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from orchd.ledger.claims import (
    WORKER_SHARED,
    alone_search,
    candidate_searches,
    limit_locks,
    promotions,
)
from orchd.ledger.dialects import Dialect, Statement
from orchd.ledger.plan import BREAKER_STREAM, QUEUE_STREAM, TASK_STREAM, Plan
from orchd.ledger.port import (
    ActOnBreaker,
    ActOnTask,
    ClaimTasks,
    RecordDaemon,
    Refusal,
    Request,
    SetQueue,
    SubmitTask,
)
from orchd.ledger.rows import (
    BREAKER_COLUMNS,
    QUEUE_COLUMNS,
    TASK_COLUMNS,
    Row,
    breaker_state,
    columns,
    queue_state,
    task_state,
)
from orchd.ledger.submissions import Taken, lookups
from orchd.ledger.work import Gate, Work
from orchd_eventstore import Transaction

_Kind = TypeVar("_Kind")
_TASKS = (
    f"SELECT {columns(TASK_COLUMNS)} FROM tasks WHERE id = ANY(?) ORDER BY id FOR UPDATE"
)
_QUEUES = (
    f"SELECT {columns(QUEUE_COLUMNS)} FROM queues WHERE name = ANY(?)"
    " ORDER BY name FOR UPDATE"
)
_BREAKERS = (
    f"SELECT {columns(BREAKER_COLUMNS)} FROM breakers WHERE name = ANY(?)"
    " ORDER BY name FOR UPDATE"
)


class Preparation:
    """One transaction's reads and decisions; the result is `plan`."""

    def __init__(self, work: Work, dialect: Dialect, ask: Gate) -> None:
        self.plan = Plan(work.command_id)
        self._dialect = dialect
        self._ask = ask
        self._use_known = work.round == 0
        self._requests = [(index, work.requests[index]) for index in work.pending]
        self._claims = self._of(ClaimTasks)
        self._acts = self._of(ActOnTask)
        self._submissions = [] if self._use_known else self._of(SubmitTask)
        self._taken: Taken | None = None
        self._searches: list[tuple[int, ClaimTasks, list[Row]]] = []
        self._fenced: set[str] = set()
        self._running: dict[str, int] = {}
        self._limits = sorted({name for _, claim in self._claims for name in claim.limits})

    def _of(self, kind: type[_Kind]) -> list[tuple[int, _Kind]]:
        return [(i, request) for i, request in self._requests if isinstance(request, kind)]

    @property
    def needs_transaction(self) -> bool:
        """Whether anything has to be read before it can be decided."""
        if self._claims or self._submissions or self._tasks_to_read():
            return True
        return bool(self._of(SetQueue) or self._of(ActOnBreaker))

    def _tasks_to_read(self) -> list[str]:
        unknown = [
            request.task_id
            for _, request in self._acts
            if request.known is None or not self._use_known
        ]
        if unknown or self._limits:
            # Tasks that are known are locked too, in the same order as everybody's.
            return sorted({request.task_id for _, request in self._acts})
        return []

    def decide(self) -> None:
        """Decide everything on what is known, without a claim or anything read."""
        self._decide_all()
        self.plan.finish()

    def _decide_all(self) -> None:
        for index, request in self._requests:
            self._decide_one(index, request)

    def _decide_one(self, index: int, request: Request) -> None:
        plan = self.plan
        if isinstance(request, ActOnTask):
            plan.act(index, request, use_known=self._use_known)
        elif isinstance(request, SubmitTask):
            outcome = None if self._taken is None else self._taken.outcome(request)
            if outcome is None:
                plan.submit(index, request)
            else:
                plan.outcomes[index] = outcome
        elif isinstance(request, SetQueue):
            plan.set_queue(index, request)
        elif isinstance(request, ActOnBreaker):
            plan.act_on_breaker(index, request)
        elif isinstance(request, RecordDaemon):
            plan.record(index, request)

    # --- reading ----------------------------------------------------------------------

    def read(self, transaction: Transaction) -> None:
        """Read, lock and decide within a transaction."""
        batch = _Batch(transaction, self._dialect)
        self._read_states(batch)
        self._read_claims(batch)
        batch.run()
        self._decide_all()
        if self._limits:
            self._search_limited(transaction)
        for claim in self._searches:
            self._claim(*claim)
        self.plan.finish()

    def _read_states(self, batch: _Batch) -> None:
        ids = self._tasks_to_read()
        if ids:
            batch.add((_TASKS, (self._dialect.array(ids),)), self._load_tasks)
        queues = sorted({request.name for _, request in self._of(SetQueue)})
        if queues:
            parameters = (self._dialect.array(queues),)
            batch.add((_QUEUES, parameters), lambda rows: self._load_queues(queues, rows))
        breakers = sorted({request.name for _, request in self._of(ActOnBreaker)})
        if breakers:
            parameters = (self._dialect.array(breakers),)
            batch.add(
                (_BREAKERS, parameters), lambda rows: self._load_breakers(breakers, rows)
            )
        if self._submissions:
            by_id, by_key = lookups(self._dialect, [r for _, r in self._submissions])
            found: list[Sequence[Row]] = []
            batch.add(by_id, found.append)
            batch.add(by_key, lambda rows: self._load_taken(found[0], rows))

    def _load_tasks(self, rows: Sequence[Row]) -> None:
        states = {state.id: state for state in map(task_state, rows)}
        for _, request in self._acts:
            name = TASK_STREAM + request.task_id
            state = states.get(request.task_id)
            if state is not None:
                self.plan.load(name, "tasks", state)
            elif not self._submitted_here(request.task_id):
                self.plan.load(name, "tasks", None)

    def _submitted_here(self, task_id: str) -> bool:
        return any(request.task_id == task_id for _, request in self._of(SubmitTask))

    def _load_queues(self, names: Sequence[str], rows: Sequence[Row]) -> None:
        states = {state.name: state for state in map(queue_state, rows)}
        for name in names:
            self.plan.load(QUEUE_STREAM + name, "queues", states.get(name))

    def _load_breakers(self, names: Sequence[str], rows: Sequence[Row]) -> None:
        states = {state.name: state for state in map(breaker_state, rows)}
        for name in names:
            self.plan.load(BREAKER_STREAM + name, "breakers", states.get(name))

    def _load_taken(self, by_id: Sequence[Row], by_key: Sequence[Row]) -> None:
        self._taken = Taken(by_id, by_key)

    # --- claims -----------------------------------------------------------------------

    def _read_claims(self, batch: _Batch) -> None:
        for index, claim in self._claims:
            batch.add(
                (WORKER_SHARED, (claim.worker,)),
                partial(self._note_worker, claim.worker),
            )
            for statement in promotions(self._dialect, claim.now):
                batch.add(statement)
            if not self._limits:
                self._add_searches(batch, index, claim, {})
        if self._limits:
            *locks, counters = limit_locks(self._dialect, self._limits)
            for statement in locks:
                batch.add(statement)
            batch.add(counters, self._note_counters)

    def _add_searches(
        self, batch: _Batch, index: int, claim: ClaimTasks, room: dict[str, int]
    ) -> None:
        found: list[Row] = []
        self._searches.append((index, claim, found))
        for statement in candidate_searches(self._dialect, claim, room):
            batch.add(statement, found.extend)
        if not claim.alone and claim.probe is None:
            batch.add(
                alone_search(self._dialect, claim),
                lambda rows: self._note_alone(index, rows),
            )

    def _note_worker(self, worker: str, rows: Sequence[Row]) -> None:
        if not rows or rows[0][0]:
            self._fenced.add(worker)

    def _note_alone(self, index: int, rows: Sequence[Row]) -> None:
        if rows:
            self.plan.alone_waiting.add(index)

    def _note_counters(self, rows: Sequence[Row]) -> None:
        self._running = {name: value for name, value in rows}

    def _search_limited(self, transaction: Transaction) -> None:
        for index, claim in self._claims:
            batch = _Batch(transaction, self._dialect)
            room = {name: self._room(name, most) for name, most in claim.limits.items()}
            self._add_searches(batch, index, claim, room)
            batch.run()
            self._claim(*self._searches.pop())

    def _room(self, queue: str, most: int) -> int:
        running = self._running.get(f"queue/{queue}/in_progress", 0)
        # Runs that end in this very commit make room for those that start in it.
        return max(0, most - running + self.plan.ended(queue))

    def _claim(self, index: int, claim: ClaimTasks, rows: list[Row]) -> None:
        if claim.worker in self._fenced:
            detail = f"worker {claim.worker} was fenced and may not claim"
            self.plan.outcomes[index] = Refusal(code="fenced", detail=detail)
            return
        rows.sort(key=lambda row: (-row[-2], row[-1], row[0]))
        states = [task_state(row[:-2]) for row in rows]
        if states and claim.gate is not None and not self._ask(claim.gate):
            states = []
        self.plan.claim(index, claim, states)


class _Batch:
    """Statements for one round trip, and what to do with their rows."""

    def __init__(self, transaction: Transaction, dialect: Dialect) -> None:
        self._transaction = transaction
        self._dialect = dialect
        self._statements: list[Statement] = []
        self._receivers: list[Callable[[Sequence[Row]], object] | None] = []

    def add(
        self,
        statement: Statement,
        receive: Callable[[Sequence[Row]], object] | None = None,
    ) -> None:
        """Add a statement; `receive` gets its rows."""
        text, parameters = statement
        self._statements.append((self._dialect.sql(text), parameters))
        self._receivers.append(receive)

    def run(self) -> None:
        """Run all statements."""
        if not self._statements:
            return
        answers = self._transaction.execute_all(self._statements)
        for receive, rows in zip(self._receivers, answers, strict=True):
            if receive is not None:
                receive(rows)
