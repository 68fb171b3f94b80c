"""Reads what a batch has to know, and decides its requests on that.

On PostgreSQL nothing that is read here is locked: what has moved until the append makes its
item lose, and the request is read and decided again. The append itself takes its locks in
one order, everybody the same: tasks by id, queues and breakers by name, the limits of
queues by name, then tasks to claim, which never wait, and the head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from orchd.ledger.claiming import Claims
from orchd.ledger.claims import anything_to_claim
from orchd.ledger.dialects import Dialect, Statement
from orchd.ledger.plan import BREAKER_STREAM, QUEUE_STREAM, TASK_STREAM, Plan
from orchd.ledger.port import (
    ActOnBreaker,
    ActOnTask,
    Claimed,
    ClaimTasks,
    RecordDaemon,
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
from orchd_eventstore import Session

_Kind = TypeVar("_Kind")
_TASKS = f"SELECT {columns(TASK_COLUMNS)} FROM tasks WHERE id = ANY(?)"
_QUEUES = f"SELECT {columns(QUEUE_COLUMNS)} FROM queues WHERE name = ANY(?)"
_BREAKERS = f"SELECT {columns(BREAKER_COLUMNS)} FROM breakers WHERE name = ANY(?)"


class Preparation:
    """One round's reads and decisions; the results are `plan` and `claims`."""

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

    def _of(self, kind: type[_Kind]) -> list[tuple[int, _Kind]]:
        return [(i, request) for i, request in self._requests if isinstance(request, kind)]

    @property
    def claims(self) -> Claims | None:
        """The producer of the append, when there is anything to claim."""
        open_claims = [
            (index, claim)
            for index, claim in self._claims
            if index not in self.plan.outcomes
        ]
        return Claims(open_claims, self.plan, self._ask) if open_claims else None

    def decide(self, session: Session) -> None:
        """Read what has to be read, and decide everything but the claims."""
        batch = _Batch(session, self._dialect)
        self._read_states(batch)
        batch.run()
        for index, request in self._requests:
            self._decide_one(index, request)
        if self._dialect.is_postgresql:
            self._ask_gates(session)
        self.plan.finish()

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

    def _ask_gates(self, session: Session) -> None:
        # A gate is asked only when there is something to claim, and it cannot be asked in
        # the middle of a function in the database.
        for index, claim in self._claims:
            if claim.gate is None:
                continue
            found = session.execute_all(anything_to_claim(self._dialect, claim))
            if not any(found) or not self._ask(claim.gate):
                self.plan.outcomes[index] = Claimed(tasks=())

    # --- reading ----------------------------------------------------------------------

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

    def _tasks_to_read(self) -> list[str]:
        return sorted(
            {
                request.task_id
                for _, request in self._acts
                if request.known is None or not self._use_known
            }
        )

    def _load_tasks(self, rows: Sequence[Row]) -> None:
        states = {state.id: state for state in map(task_state, rows)}
        for task_id in self._tasks_to_read():
            state = states.get(task_id)
            if state is not None or not self._submitted_here(task_id):
                self.plan.load(TASK_STREAM + task_id, "tasks", state)

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


class _Batch:
    """Statements for one round trip, and what to do with their rows."""

    def __init__(self, session: Session, dialect: Dialect) -> None:
        self._session = session
        self._dialect = dialect
        self._statements: list[Statement] = []
        self._receivers: list[Callable[[Sequence[Row]], object]] = []

    def add(self, statement: Statement, receive: Callable[[Sequence[Row]], object]) -> None:
        """Add a statement; `receive` gets its rows."""
        text, parameters = statement
        self._statements.append((self._dialect.sql(text), parameters))
        self._receivers.append(receive)

    def run(self) -> None:
        """Run all statements."""
        if not self._statements:
            return
        answers = self._session.execute_all(self._statements)
        for receive, rows in zip(self._receivers, answers, strict=True):
            receive(rows)
