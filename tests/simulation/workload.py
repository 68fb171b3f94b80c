"""What clients ask of the fleet: submissions, and everything that an operator does."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from orchd.breakers import Close
from orchd.ledger.port import (
    ActOnBreaker,
    ActOnTask,
    LedgerUnavailable,
    Origin,
    Outcome,
    Request,
    SetQueue,
    SubmitTask,
)
from orchd.tasks import commands as c
from orchd.tasks.events import TaskSubmitted
from simulation.connection import Connection
from simulation.daemon import Life
from simulation.ledger import SimulatedLedger
from simulation.plan import QUEUES
from simulation.world import EPOCH, Process

if TYPE_CHECKING:
    from simulation.simulation import Simulation

ORIGIN = Origin(actor="client", reason="simulated")
AGAIN_SECONDS = 0.7
Make = Callable[[int], tuple[Request, ...]]
"""Given the present instant, returns the requests of an operation."""


class Operation:
    """Something a client wants, and asks for until it has an answer."""

    def __init__(self, simulation: Simulation, name: str, make: Make) -> None:
        self.name = name
        self.outcomes: list[Outcome] | None = None
        self._simulation = simulation
        self._make = make
        self._tries = 0

    def begin(self) -> None:
        """Ask a daemon, or the database itself, as the command line does."""
        simulation = self._simulation
        serving = simulation.serving()
        direct = not simulation.plan.sole_writer and simulation.chance.random() < 0.15
        if direct:
            self._ask_database()
        elif serving:
            self._ask_daemon(simulation.chance.choice(serving))
        else:
            simulation.world.after(AGAIN_SECONDS, self.begin)

    def _ask_daemon(self, life: Life) -> None:
        tries = self._tries = self._tries + 1

        def give_up() -> None:
            # The connection broke; nobody knows what became of it.
            if self._tries == tries and self.outcomes is None:
                self._simulation.world.after(AGAIN_SECONDS, self.begin)

        life.process.on_end.append(give_up)
        life.process.spawn(self._through(life), f"client {self.name}")

    async def _through(self, life: Life) -> None:
        requests = self._make(self._simulation.database.clock())
        try:
            outcomes = await life.engine.requests(requests)
        except Exception:
            # Unavailable, or an error that a test made: the same again, later.
            self._tries += 1
            self._simulation.world.after(AGAIN_SECONDS, self.begin)
        else:
            self._answered(requests, outcomes)

    def _ask_database(self) -> None:
        simulation = self._simulation
        process = Process(simulation.desk, f"cli-{self.name}-{self._tries}")
        self._tries += 1
        connection = Connection(process, simulation.sea, sole_writer=False)
        ledger = SimulatedLedger(simulation.database, connection)
        process.spawn(self._directly(process, ledger), self.name)

    async def _directly(self, process: Process, ledger: SimulatedLedger) -> None:
        requests = self._make(self._simulation.database.clock())
        while True:
            try:
                outcomes = await ledger.commit(requests, command_id=process.name)
                break
            except LedgerUnavailable:
                await _pause(process)
        self._answered(requests, outcomes)
        # Ended from outside: a process does not close its own coroutine.
        self._simulation.world.after(0.0, process.end)

    def _answered(self, requests: tuple[Request, ...], outcomes: list[Outcome]) -> None:
        self.outcomes = outcomes
        if self._simulation.world.tracing:
            kinds = [type(outcome).__name__ for outcome in outcomes]
            self._simulation.world.trace(f"{self.name} answered {kinds}")
        for request, outcome in zip(requests, outcomes, strict=True):
            self._simulation.checker.answered(request, outcome)


async def _pause(process: Process) -> None:
    wait = process.loop.create_future()
    process.loop.call_later(AGAIN_SECONDS, wait.set_result, None)
    await wait


class Workload:
    """Draws what clients want and when."""

    def __init__(self, simulation: Simulation) -> None:
        self.operations: list[Operation] = []
        self.paused: set[str] = set()
        self._simulation = simulation
        self._chance = simulation.world.chance("workload")
        self._ids = [f"t{number:02d}" for number in range(simulation.plan.tasks)]

    def schedule(self) -> None:
        """Arrange everything that clients will ask for."""
        simulation, chance = self._simulation, self._chance
        chaos = simulation.plan.chaos_seconds
        for task_id in self._ids:
            early = chance.random() < 0.7
            at = chance.random() * chaos * (0.15 if early else 0.9)
            self._at(at, f"submit-{task_id}", self._submission(task_id))
            if chance.random() < 0.1:
                again = at + chance.random() * chaos * 0.3
                self._at(again, f"again-{task_id}", self._submission(task_id))
        for number in range(simulation.plan.operations):
            self._at(chance.random() * chaos, f"do-{number}", self._act())

    def resume_everything(self) -> None:
        """Let paused queues go on."""
        for name, queue in self._simulation.database.queues.items():
            if queue.paused:
                self._at(0.0, f"resume-{name}", _set_queue(name, pause=False))

    @property
    def is_answered(self) -> bool:
        """Whether every client has had an answer."""
        return all(operation.outcomes is not None for operation in self.operations)

    def _at(self, seconds: float, name: str, make: Make) -> None:
        operation = Operation(self._simulation, name, make)
        self.operations.append(operation)
        self._simulation.world.after(seconds, operation.begin)

    # --- submissions ------------------------------------------------------------------

    def _submission(self, task_id: str) -> Make:
        # The same task is always the same submission.
        chance = self._simulation.world.chance(f"task/{task_id}")
        key = f"key-{task_id}" if chance.random() < 0.3 else None
        delayed = chance.random() < 0.2
        run_at = EPOCH + round(chance.random() * 8e6) if delayed else None
        submitted = TaskSubmitted(
            description=f"do {task_id}",
            payload=msgspec.Raw(b'{"n":1}') if chance.random() < 0.2 else None,
            executor=chance.choices(
                ("work", "remote", "lock", "rare", "nobody"), (9, 4, 5, 1, 0.2)
            )[0],
            verifiers=_verifiers(chance),
            queue=chance.choices(QUEUES, (4, 3, 2, 1))[0],
            priority=chance.choice((0, 0, 0, 5, -5)),
            run_at=run_at,
            max_attempts=chance.randint(1, 4),
            execute_timeout_seconds=chance.choice((None, 0.3, 1.0, 4.0)),
            verify_timeout_seconds=chance.choice((None, 0.5, 2.0)),
            idempotency_key=key,
            body_hash=task_id,
        )
        return lambda now: (
            SubmitTask(
                task_id=task_id,
                command=c.Submit(now=now, submitted=submitted),
                origin=ORIGIN,
            ),
        )

    # --- operators --------------------------------------------------------------------

    def _act(self) -> Make:
        chance = self._chance
        kind = chance.choices(
            ("cancel", "requeue", "discard", "erase", "pause", "resume", "breaker"),
            (5, 4, 2, 1, 1, 1, 1),
        )[0]
        task_ids = chance.sample(self._ids, k=min(len(self._ids), chance.randint(1, 4)))
        if kind == "cancel":
            return _on_tasks(task_ids[:2], lambda now: c.Cancel(now=now))
        if kind == "requeue":
            only = chance.random() < 0.5
            return _on_tasks(task_ids, lambda now: c.Requeue(now=now, verify_only=only))
        if kind == "discard":
            return _on_tasks(task_ids, lambda now: c.Discard(now=now))
        if kind == "erase":
            return self._erase(task_ids)
        if kind == "breaker":
            return lambda now: (
                ActOnBreaker(name="remote", command=Close(now=now), origin=ORIGIN),
            )
        return _set_queue(chance.choice(QUEUES), pause=kind == "pause")

    def _erase(self, task_ids: list[str]) -> Make:
        def make(now: int) -> tuple[Request, ...]:
            tasks = self._simulation.database.tasks
            return tuple(
                ActOnTask(
                    task_id=task_id,
                    command=c.Erase(now=now, version=tasks[task_id].version, erased=()),
                    origin=ORIGIN,
                )
                for task_id in task_ids
                if task_id in tasks
            )

        return make


def _verifiers(chance: random.Random) -> tuple[str, ...]:
    drawn: tuple[tuple[str, ...], ...] = (
        (),
        ("cheap",),
        ("judge",),
        ("cheap", "quick"),
        ("cheap", "judge"),
        ("judge", "second"),
    )
    return chance.choices(drawn, (8, 1, 4, 2, 2, 2))[0]


def _on_tasks(task_ids: list[str], command: Callable[[int], c.TaskCommand]) -> Make:
    return lambda now: tuple(
        ActOnTask(task_id=task_id, command=command(now), origin=ORIGIN)
        for task_id in task_ids
    )


def _set_queue(queue: str, *, pause: bool) -> Make:
    return lambda now: (SetQueue(name=queue, pause=pause, now=now, origin=ORIGIN),)
