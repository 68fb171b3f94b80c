"""Checks the invariants after every commit, every start, every acknowledgement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from orchd import breakers, queues
from orchd.breakers import BreakerState, Position
from orchd.engine.observer import TaskNews
from orchd.ledger.port import (
    Acted,
    ActOnTask,
    Claimed,
    ClaimTasks,
    LogEntry,
    Outcome,
    Request,
    Submitted,
    WorkerView,
)
from orchd.queues import QueueState
from orchd.tasks import events as e
from orchd.tasks.commands import Recover
from orchd.tasks.failures import ErrorClass
from orchd.tasks.state import Phase
from simulation.claiming import serves
from simulation.database import Committed, Database
from simulation.model import TaskModel
from simulation.violations import Invariant
from simulation.witness import Execution, Witness
from simulation.world import Process, World

REACTION_SECONDS = 0.05
"""What a process may take, once it runs again, to stop what it must not do any more."""


class Checker:
    """Follows the log and the witness of one world, and tells the world what is broken.

    Args:
        limits: how many tasks of a queue may run, where not any number.
        could_renew: whether nothing but the database itself has kept a worker of that id
            from renewing its lease of late.
        is_worker_alive: whether a worker of that id is one of a living process.
        is_loss_foreseen: whether an error was injected that may lose runs.
    """

    def __init__(
        self,
        world: World,
        database: Database,
        witness: Witness,
        *,
        lease_seconds: float,
        limits: Mapping[str, int],
        could_renew: Callable[[str], bool],
        is_worker_alive: Callable[[str], bool],
        is_loss_foreseen: Callable[[], bool],
    ) -> None:
        self.models: dict[str, TaskModel] = {}
        self.acknowledged: set[str] = set()
        self.fenced: set[str] = set()
        self.has_clock_jumped = False
        """Whether the database's clock has, so that leases may end at any time."""
        self._world = world
        self._database = database
        self._witness = witness
        self._lease = lease_seconds
        self._limits = limits
        self._could_renew = could_renew
        self._is_worker_alive = is_worker_alive
        self.is_loss_foreseen = is_loss_foreseen
        self._position = 0
        self._running: Counter[str] = Counter()
        self._started_at: dict[str, float] = {}
        """When the last run of a task was claimed, in true seconds."""
        self._queues: dict[str, QueueState] = {}
        self._breakers: dict[str, BreakerState] = {}
        database.on_commit.append(self.committed)
        database.on_fence.append(self.worker_fenced)

    # --- commits ----------------------------------------------------------------------

    def committed(self, commit: Committed) -> None:
        """Check one commit."""
        before = {r.task_id: self._worker_of(r.task_id) for r in _recoveries(commit)}
        started: dict[str, LogEntry] = {}
        touched: dict[str, TaskModel] = {}
        for entry in commit.entries:
            self._follow(entry, touched)
            if entry.type == "task.started":
                started[entry.stream.removeprefix("task-")] = entry
        for task_id, model in touched.items():
            if model.state != self._database.tasks.get(task_id):
                self._fail(Invariant.FOLD, f"task {task_id}: {self._difference(model)}")
        for request, outcome in zip(commit.requests, commit.outcomes, strict=True):
            if isinstance(request, ClaimTasks) and isinstance(outcome, Claimed):
                for task in outcome.tasks:
                    self._check_claim(request, touched[task.state.id])
            elif isinstance(request, ActOnTask):
                self._check_act(request, outcome, before.get(request.task_id))
        self._check_no_stray(commit, set(started))

    def _check_act(self, request: ActOnTask, outcome: Outcome, owner: str | None) -> None:
        if isinstance(request.command, Recover):
            self._check_recovery(request, outcome, owner)
        if isinstance(outcome, Acted):
            self._note_report(request, outcome)

    def _check_no_stray(self, commit: Committed, started: set[str]) -> None:
        claimed = {
            task.state.id
            for outcome in commit.outcomes
            if isinstance(outcome, Claimed)
            for task in outcome.tasks
        }
        if started - claimed:
            self._fail(Invariant.WITNESS, f"{started - claimed} started for nobody")

    def _worker_of(self, task_id: str) -> str | None:
        model = self.models.get(task_id)
        return None if model is None or model.start is None else model.start.worker

    def _follow(self, entry: LogEntry, touched: dict[str, TaskModel]) -> None:
        self._position += 1
        if entry.position != self._position:
            self._fail(Invariant.DENSE, f"{entry.position} follows {self._position - 1}")
        if self._world.tracing:
            self._world.trace(f"{entry.position} {entry.stream} {entry.type} {entry.data}")
        kind, _, name = entry.stream.partition("-")
        if kind == "task":
            self._follow_task(name, entry, touched)
        elif kind == "queue":
            self._follow_queue(name, entry)
        elif kind == "breaker":
            self._follow_breaker(name, entry)

    def _follow_task(
        self, task_id: str, entry: LogEntry, touched: dict[str, TaskModel]
    ) -> None:
        model = self.models.setdefault(task_id, TaskModel(task_id))
        touched[task_id] = model
        was_running = model.is_running
        event = e.decode_event(entry.type, entry.data)
        self._check_result(model, event)
        self._check_time_limit(model, event)
        for invariant, detail in model.follow(entry, event):
            if invariant is Invariant.REPORTED_TWICE and self.is_loss_foreseen():
                continue
            self._fail(invariant, f"task {task_id}: {detail}")
        if model.state is not None:
            self._running[model.state.queue] += model.is_running - was_running

    def _check_result(self, model: TaskModel, event: e.TaskEvent) -> None:
        if not isinstance(event, e.TaskExecuted | e.TaskCompleted) or event.result is None:
            return
        token = 0 if model.start is None else model.start.token
        produced = self._witness.results.get((model.id, token))
        if event.result != produced:
            detail = f"task {model.id}: {event.result!r}, not {produced!r}"
            self._fail(Invariant.RESULT, detail)

    def _check_time_limit(self, model: TaskModel, event: e.TaskEvent) -> None:
        if isinstance(event, e.TaskStarted):
            self._started_at[model.id] = self._world.now
        if not isinstance(event, e.TaskRetried | e.TaskFailed) or model.state is None:
            return
        limit = model.state.execute_timeout_seconds
        passed = self._world.now - self._started_at[model.id]
        if event.error_class == ErrorClass.TIMEOUT and limit and passed < limit:
            detail = f"task {model.id} after {passed:.3f} s, its limit is {limit} s"
            self._fail(Invariant.TIME_LIMIT, detail)

    def _follow_queue(self, name: str, entry: LogEntry) -> None:
        event = msgspec.json.decode(entry.data, type=queues.EVENT_TYPES[entry.type])
        meta = e.decode_meta(entry.meta)
        state = queues.evolve(self._queues.get(name), name, entry.version, event, meta)
        self._check_other(name, entry, self._queues.get(name), state)
        self._queues[name] = state

    def _follow_breaker(self, name: str, entry: LogEntry) -> None:
        event = msgspec.json.decode(entry.data, type=breakers.EVENT_TYPES[entry.type])
        meta = e.decode_meta(entry.meta)
        state = breakers.evolve(self._breakers.get(name), name, entry.version, event, meta)
        self._check_other(name, entry, self._breakers.get(name), state)
        self._breakers[name] = state

    def _check_other(self, name: str, entry: LogEntry, before: Any, after: Any) -> None:
        if after.version != (0 if before is None else before.version) + 1:
            self._fail(Invariant.DENSE, f"{entry.stream} version {after.version}")

    def _difference(self, model: TaskModel) -> str:
        row = self._database.tasks.get(model.id)
        if row is None or model.state is None:
            return f"the row is {row}, the stream says {model.state}"
        folded, stored = msgspec.structs.asdict(model.state), msgspec.structs.asdict(row)
        unequal = {k: (stored[k], v) for k, v in folded.items() if stored[k] != v}
        return f"(row, stream) {unequal}"

    # --- claims and takeovers ---------------------------------------------------------

    def _check_claim(self, claim: ClaimTasks, model: TaskModel) -> None:
        state, start = model.state, model.start
        if state is None or start is None or start.worker != claim.worker:
            self._fail(Invariant.WITNESS, f"task {model.id} was not started for its claim")
            return
        if claim.worker in self.fenced or claim.worker not in self._database.workers:
            self._fail(Invariant.FENCED, f"{claim.worker} claimed task {model.id}")
        if start.alone is not (state.crashes >= claim.max_crashes):
            detail = f"task {model.id} after {state.crashes} of {claim.max_crashes} crashes"
            self._fail(Invariant.CORNERED, f"{detail}, alone: {start.alone}")
        limit = self._limits.get(state.queue)
        if limit is not None and self._running[state.queue] > limit:
            running = self._running[state.queue]
            self._fail(Invariant.LIMIT, f"{running} run in {state.queue}, limit {limit}")
        reason = self._incapable(claim, model)
        if reason:
            self._fail(Invariant.CAPABLE, f"{claim.worker}, task {model.id}: {reason}")

    def _incapable(self, claim: ClaimTasks, model: TaskModel) -> str:
        state = model.state
        assert state is not None
        queue, breaker = self._queues.get(state.queue), self._breakers.get(state.executor)
        if queue is not None and queue.paused:
            return f"queue {state.queue} is paused"
        if not serves(claim.queues, state.queue):
            return f"queue {state.queue} is not served"
        if state.phase is Phase.VERIFY:
            missing = set(state.verifiers) - set(claim.verifiers)
            return f"no verifiers {missing}" if missing else ""
        if state.executor not in claim.executors:
            return f"no executor {state.executor}"
        if breaker is None or breaker.position is Position.CLOSED:
            return ""
        mine = (breaker.position, breaker.worker) == (Position.HALF_OPEN, claim.worker)
        return "" if mine and claim.probe == state.executor else "the breaker is not closed"

    def _check_recovery(
        self, request: ActOnTask, outcome: Outcome, worker: str | None
    ) -> None:
        if not isinstance(outcome, Acted) or not outcome.events or worker is None:
            return
        if worker in self.fenced:
            return
        detail = f"task {request.task_id} was taken from {worker}"
        if worker != request.origin.worker:
            self._fail(Invariant.RECOVERED, f"{detail}, which is not fenced")
        elif not self.is_loss_foreseen():
            self._fail(Invariant.LOST_RUN, f"{detail} by itself")

    def _note_report(self, request: ActOnTask, outcome: Acted) -> None:
        token = getattr(request.command, "token", None)
        if isinstance(request.command, Recover) or token is None:
            return
        if any(_ends_run(event) for event in outcome.events):
            self.models[request.task_id].reported.add(token)

    def worker_fenced(self, before: WorkerView, only_if_expired: bool) -> None:
        """Check that a worker may be fenced."""
        self.fenced.add(before.id)
        if before.fenced:
            return
        if self._world.tracing:
            self._world.trace(f"fenced {before.id}")
        if only_if_expired and before.expires_at > self._database.clock():
            self._fail(Invariant.FENCED_ALIVE, f"the lease of {before.id} has not run out")
        # By its silence, when the clock cannot tell whether the lease has run out.
        is_silence = self.has_clock_jumped and not self._could_renew(before.id)
        if not only_if_expired and self._is_worker_alive(before.id) and not is_silence:
            self._fail(Invariant.FENCED_ALIVE, f"{before.id} lives")
        if only_if_expired and not self.has_clock_jumped and self._could_renew(before.id):
            self._fail(Invariant.OUTAGE, f"{before.id} had no chance to renew its lease")

    # --- executions -------------------------------------------------------------------

    def execution_began(self, execution: Execution) -> None:
        """Check that an execution may begin."""
        if self._world.tracing:
            self._world.trace(f"{execution.daemon} executes {execution}")
        if not self._witness.begin(execution):
            self._fail(Invariant.EXECUTED_TWICE, str(execution))
        model = self.models.get(execution.task_id)
        start = None if model is None else model.starts.get(execution.token)
        if start is None or start.run != execution.context.run:
            self._fail(Invariant.WITNESS, f"{execution} was never claimed")
            return
        if not start.worker.startswith(f"{execution.process.name}."):
            self._fail(Invariant.WITNESS, f"{execution} belongs to {start.worker}")
        if start.phase != Phase.EXECUTE:
            self._fail(Invariant.EXECUTED_AGAIN, f"{execution} was claimed to verify")
        self._check_alone(execution)
        if execution.is_exclusive and not self.has_clock_jumped:
            self._check_exclusive(execution)

    def _check_exclusive(self, execution: Execution) -> None:
        for other in self._witness.by_task[execution.task_id]:
            if other is execution or not self._can_react(other.process):
                continue
            if other.is_active and not other.is_told_to_stop:
                self._fail(Invariant.EXCLUSIVE, f"{other} in {other.daemon}, {execution}")

    def _can_react(self, process: Process) -> bool:
        # A frozen process cannot stop anything, and needs a moment when it goes on. Its
        # alarms do not count the time for which the machine slept.
        now = self._world.now
        awake = now - process.machine.woke_at
        running = now - process.thawed_at
        return not process.frozen and running > REACTION_SECONDS < awake - self._lease / 3

    def _check_alone(self, execution: Execution) -> None:
        # Bodies that were left behind have lost their token and count no more.
        beside = [
            other
            for other in self._witness.active()
            if other.process is execution.process and self._holds(other)
        ]
        if self.is_loss_foreseen():
            return
        if len(beside) > 1 and any(self._is_alone(other) for other in beside):
            self._fail(Invariant.ALONE, " beside ".join(map(str, beside)))

    def _holds(self, execution: Execution) -> bool:
        start = self.models[execution.task_id].start
        return start is not None and start.token == execution.token

    def _is_alone(self, execution: Execution) -> bool:
        start = self.models[execution.task_id].start
        return start is not None and start.alone

    # --- acknowledgements -------------------------------------------------------------

    def answered(self, request: Request, outcome: Outcome) -> None:
        """Check what a client was told."""
        if isinstance(outcome, Submitted):
            self.acknowledged.add(outcome.state.id)
            self._require_stored(outcome.state.id, outcome.state.version)
        elif isinstance(outcome, Acted):
            self._require_stored(outcome.state.id, outcome.state.version)

    def told(self, news: TaskNews) -> None:
        """Check what an observer was told."""
        self._require_stored(news.after.id, news.after.version)

    def _require_stored(self, task_id: str, version: int) -> None:
        stored = len(self._database.streams.get(f"task-{task_id}", ()))
        if stored < version:
            detail = f"task {task_id} was told to be at {version}, the log at {stored}"
            self._fail(Invariant.AFTER_COMMIT, detail)

    def _fail(self, invariant: Invariant, detail: str) -> None:
        self._world.fail(invariant, detail)


def _recoveries(commit: Committed) -> list[ActOnTask]:
    return [
        request
        for request in commit.requests
        if isinstance(request, ActOnTask) and isinstance(request.command, Recover)
    ]


def _ends_run(event: e.TaskEvent) -> bool:
    ends = (e.TaskCompleted, e.TaskRetried, e.TaskFailed, e.TaskReleased, e.TaskCancelled)
    return isinstance(event, ends)
