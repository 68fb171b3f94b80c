"""A daemon of the simulated fleet: process after process with the production engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from orchd.config.settings import (
    Backoff,
    BreakerSettings,
    ExecutorSettings,
    QueueSettings,
    RetrySettings,
    Settings,
    VerifierSettings,
    WorkerSettings,
)
from orchd.daemons import DaemonDraining, DaemonEvent, DaemonStarted, DaemonStopped
from orchd.engine.engine import Engine
from orchd.engine.observer import Observer, TaskNews
from orchd.ledger.port import LedgerUnavailable, Origin, RecordDaemon
from simulation.connection import Connection, Unforeseen
from simulation.ledger import SimulatedLedger
from simulation.plan import EXECUTORS, VERIFIERS, Plan
from simulation.scripts import ScriptedExecutor, ScriptedVerifier
from simulation.violations import Invariant
from simulation.virtual_system import VirtualSystem
from simulation.witness import Execution
from simulation.world import Machine, Process

if TYPE_CHECKING:
    from simulation.simulation import Simulation

KILL_GRACE_SECONDS = 0.5
TIMEOUT_SECONDS = 3.0


class Daemon:
    """One place of the fleet: whatever runs there is replaced when it ends.

    Args:
        number: 0, 1, …
    """

    def __init__(self, simulation: Simulation, machine: Machine, number: int) -> None:
        self.simulation = simulation
        self.machine = machine
        self.number = number
        self.name = f"d{number + 1}"
        self.settings = settings_for(simulation.plan, number)
        self.executors = executors_of(number)
        self.verifiers: tuple[str, ...] = VERIFIERS
        self.leaves_when_idle = False
        self.lives = 0
        self.life: Life | None = None

    @property
    def alive(self) -> Life | None:
        """The process at work, if there is one."""
        life = self.life
        return life if life is not None and life.process.alive else None

    def heal(self) -> None:
        """Be able to do again what it could do at first, and stay."""
        self.leaves_when_idle = False
        self.reload(self.settings, executors_of(self.number), VERIFIERS)

    def reload(
        self, settings: Settings, executors: Sequence[str], verifiers: Sequence[str]
    ) -> None:
        """Go on with other settings, as SIGHUP does."""
        self.settings = settings
        self.executors, self.verifiers = tuple(executors), tuple(verifiers)
        if self.alive is not None:
            self.alive.reload()

    def begin(self) -> None:
        """Start a process, unless one is at work or the world is ending."""
        if self.machine.asleep_since is not None:
            self.simulation.world.after(0.1, self.begin)
            return
        if self.alive is None and not self.simulation.is_ending:
            self.lives += 1
            self.life = Life(self)

    def ended(self) -> None:
        """Arrange for the next process."""
        simulation = self.simulation
        delay = 0.05 if simulation.is_calm else simulation.chance.expovariate(1.5)
        simulation.world.after(delay, self.begin)


class Life:
    """One process of a daemon, from its start to its end."""

    def __init__(self, daemon: Daemon) -> None:
        simulation = daemon.simulation
        plan = simulation.plan
        self.daemon = daemon
        self.name = f"{daemon.name}-{daemon.lives}"
        self.process = Process(daemon.machine, self.name)
        self.connection = Connection(
            self.process, simulation.sea, sole_writer=plan.sole_writer
        )
        self.ledger = SimulatedLedger(
            simulation.database,
            self.connection,
            sole_writer=plan.sole_writer,
            fallback_seconds=plan.weather.news_fallback_seconds,
            on_broken_rule=lambda detail: simulation.world.fail(
                Invariant.REPEATED, f"{self.name}: {detail}"
            ),
        )
        self.system = VirtualSystem(self.process, simulation.world.chance(self.name))
        self.serving = False
        self.stopping_since = 0.0
        self._slots_max = 0
        """Slots it has or had: those of before a reload may still be taken."""
        self._asked = asyncio.Event()
        self.engine = Engine(
            ledger=self.ledger,
            executors=self._executors(),
            verifiers=self._verifiers(),
            settings=daemon.settings,
            system=self.system,
            observers=(_Listener(simulation.checker.told),),
        )
        # Few runs are at work here, and they are to go in waves as many do.
        self.engine.committer.wave_min = 2
        simulation.life_began(self)
        self.process.spawn(self._live(), "live")

    def _executors(self) -> dict[str, ScriptedExecutor]:
        return {
            name: ScriptedExecutor(
                name,
                theatre=self.daemon.simulation.theatre,
                process=self.process,
                daemon=self.name,
                began=self._execution_began,
            )
            for name in self.daemon.executors
        }

    def _verifiers(self) -> dict[str, ScriptedVerifier]:
        theatre = self.daemon.simulation.theatre
        return {
            name: ScriptedVerifier(name, theatre=theatre, process=self.process)
            for name in self.daemon.verifiers
        }

    def _execution_began(self, execution: Execution) -> None:
        self._slots_max = max(self._slots_max, self.engine.slots)
        # A run that has reported may be known here for a moment longer than its slot.
        at_work = sum(not run.ended for run in self.engine.runs())
        if at_work > self._slots_max:
            detail = f"{self.name}: {at_work} runs, {self._slots_max} slots"
            self.daemon.simulation.world.fail(Invariant.SLOTS, detail)
        self.daemon.simulation.checker.execution_began(execution)

    # --- what the daemon's process does -----------------------------------------------

    async def _live(self) -> None:
        try:
            # What leaves when it is idle is what a library call runs, and starts like it.
            await self.engine.start(recover_first=self.daemon.leaves_when_idle)
            await self._serve()
        except (LedgerUnavailable, Unforeseen):
            self._leave()

    async def _serve(self) -> None:
        self.serving = True
        identity = self.system.identity()
        await self._record(
            DaemonStarted(
                host=identity.host,
                pid=identity.pid,
                release="simulated",
                executors=self.engine.executor_names,
            )
        )
        await self._until_asked()
        await self._stop()

    async def _until_asked(self) -> None:
        waiting = [self.process.loop.create_task(self._asked.wait())]
        if self.daemon.leaves_when_idle:
            idle = self.process.loop.create_task(self.engine.wait_until_idle())
            waiting.append(idle)
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()

    async def _stop(self) -> None:
        self._asked.set()
        self.stopping_since = self.process.world.now
        if self.engine.running:
            await self._record(DaemonDraining(running=self.engine.running))
        limit_seconds = self.daemon.settings.worker.drain_timeout_seconds
        if self.daemon.simulation.chance.random() < 0.7:
            await self.engine.drain(limit_seconds)
            limit_seconds = 0.0
        await self._record(DaemonStopped())
        self.serving = False
        await self.engine.stop(limit_seconds)
        self.daemon.simulation.stopped(self)
        self._leave()

    def _leave(self) -> None:
        # From outside: a coroutine cannot close itself.
        self.daemon.simulation.world.after(0.0, self.end)

    async def _record(self, event: DaemonEvent) -> None:
        worker = self.engine.worker_id
        request = RecordDaemon(
            worker=worker,
            event=event,
            now=self.engine.clock.now(),
            origin=Origin(actor="daemon", worker=worker),
        )
        with suppress(LedgerUnavailable):
            await self.engine.request(request)

    @property
    def is_steady(self) -> bool:
        """Whether it serves and nobody has asked it to stop."""
        return self.serving and not self._asked.is_set()

    def ask_to_stop(self) -> None:
        """Ask for a drain, as SIGTERM does."""
        self._asked.set()

    def reload(self) -> None:
        """Go on with the daemon's settings of now."""
        self.process.spawn(self._reload(), "reload")

    async def _reload(self) -> None:
        self._slots_max = max(self._slots_max, self.engine.slots)
        with suppress(LedgerUnavailable):
            await self.engine.swap_settings(
                self.daemon.settings, self._executors(), self._verifiers()
            )

    def end(self) -> None:
        """End at once, as SIGKILL does."""
        if self.process.alive:
            self.serving = False
            self.process.end()
            self.daemon.ended()


class _Listener(Observer):
    def __init__(self, told: Callable[[TaskNews], object]) -> None:
        self._told = told

    def task_moved(self, news: TaskNews) -> None:
        self._told(news)


def executors_of(number: int) -> tuple[str, ...]:
    """Return what a daemon can execute; only the first can do everything."""
    return EXECUTORS if number == 0 else EXECUTORS[:-1]


def settings_for(plan: Plan, number: int) -> Settings:
    """Return the settings of a daemon of the fleet."""
    retry = RetrySettings(
        max_crashes=plan.max_crashes,
        max_deferrals=plan.max_deferrals,
        max_verify_errors=plan.max_verify_errors,
        backoff=Backoff(initial_seconds=plan.backoff_seconds, max_seconds=2.0),
    )
    breaker = BreakerSettings(
        failures=plan.breaker_failures, cooldown_seconds=plan.cooldown_seconds
    )
    return Settings(
        database="simulated",
        worker=WorkerSettings(
            concurrency=plan.concurrency[number],
            drain_timeout_seconds=plan.drain_seconds,
            kill_grace_seconds=KILL_GRACE_SECONDS,
            lease_seconds=plan.lease_seconds,
        ),
        queues={n: QueueSettings(concurrency=most) for n, most in plan.limits.items()},
        executors={
            name: ExecutorSettings(name=name, type="scripted", retry=retry, breaker=breaker)
            for name in EXECUTORS
        },
        verifiers={
            name: VerifierSettings(
                name=name, type="scripted", timeout_seconds=TIMEOUT_SECONDS
            )
            for name in VERIFIERS
        },
        retry=retry,
        breaker=breaker,
    )


def with_concurrency(settings: Settings, concurrency: int) -> Settings:
    """Return settings with another number of slots."""
    worker = msgspec.structs.replace(settings.worker, concurrency=concurrency)
    return msgspec.structs.replace(settings, worker=worker)
