"""Carries out the faults of a plan."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from simulation.connection import Fate, Flight
from simulation.coverage import Site, WriteSite, suspended
from simulation.daemon import Daemon, Life, with_concurrency
from simulation.plan import EXECUTORS, VERIFIERS, Fault
from simulation.world import Process

if TYPE_CHECKING:
    from simulation.simulation import Simulation


class Nemesis:
    """Hits the world when the plan says so; victims are drawn when the time comes."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._world = simulation.world
        self._chance = simulation.world.chance("nemesis")

    def schedule(self) -> None:
        """Arrange the faults."""
        for at, fault in self._simulation.plan.faults:
            self._world.after(at, partial(self._strike, fault))

    def _strike(self, fault: Fault) -> None:
        if self._simulation.is_calm:
            return
        if self._world.tracing:
            self._world.trace(f"fault {fault}")
        _STRIKES[fault](self)

    def _victim(self) -> Daemon:
        return self._chance.choice(self._simulation.daemons)

    def _life(self) -> Life | None:
        return self._victim().alive

    # --- processes --------------------------------------------------------------------

    def _crash(self) -> None:
        life = self._life()
        if life is not None:
            self._simulation.crash(life)

    def _crash_at_step(self) -> None:
        self._at_step(self._simulation.crash)

    def _stall_at_step(self) -> None:
        self._at_step(lambda life: life.process.freeze(self._stall_seconds()))

    def _at_step(self, strike: Callable[[Life], object]) -> None:
        life = self._life()
        if life is None or life.process.loop.watch is not None:
            return
        loop = life.process.loop
        step = loop.steps + 1 + int(self._chance.expovariate(1 / 60))

        def watch(callback: Any) -> None:
            if loop.steps >= step:
                loop.watch = None
                loop.pausing = True
                # Between this step and the next, once the loop has let go.
                self._world.soon(lambda: self._strike_life(life, strike))

        loop.watch = watch

    def _strike_life(self, life: Life, strike: Callable[[Life], object]) -> None:
        if life.process.alive and not self._simulation.is_calm:
            strike(life)

    def _crash_at_write(self) -> None:
        life = self._life()
        if life is None:
            return
        wanted = self._chance.choice(("before", "after"))
        left = self._chance.randrange(6)

        def on_phase(flight: Flight, phase: str) -> None:
            nonlocal left
            if phase == wanted:
                left -= 1
                if left < 0:
                    life.connection.on_phase = None
                    self.crash_soon(life)

        life.connection.on_phase = on_phase

    def crash_soon(self, life: Life) -> None:
        """Crash before anything else happens."""
        life.process.loop.pausing = True
        self._world.soon(lambda: self._strike_life(life, self._simulation.crash))

    def _stall(self) -> None:
        life = self._life()
        if life is not None:
            life.process.freeze(self._stall_seconds())

    def _stall_seconds(self) -> float:
        return self._chance.uniform(0.2, 3.0) * self._simulation.plan.lease_seconds

    def _hiccup(self) -> None:
        for _ in range(3):
            life = self._life()
            if life is not None:
                life.process.freeze(self._chance.expovariate(20.0))

    def _drain(self) -> None:
        life = self._life()
        if life is not None:
            life.ask_to_stop()

    def _until_idle(self) -> None:
        daemon = self._victim()
        daemon.leaves_when_idle = True
        if daemon.alive is not None:
            daemon.alive.ask_to_stop()

    def _reload(self) -> None:
        self._reload_life(self._life())

    def reload(self, process: Process) -> None:
        """Let the daemon of a process go on with other settings."""
        for life in self._simulation.lives():
            if life.process is process and not self._simulation.is_calm:
                self._reload_life(life)

    def _reload_life(self, life: Life | None) -> None:
        if life is None or not life.serving:
            return
        daemon = life.daemon
        settings = with_concurrency(daemon.settings, self._chance.randint(1, 6))
        executors: Sequence[str] = daemon.executors
        verifiers: Sequence[str] = daemon.verifiers
        if self._chance.random() < 0.5:
            executors = [name for name in EXECUTORS if self._chance.random() < 0.7]
            verifiers = [name for name in VERIFIERS if self._chance.random() < 0.7]
        daemon.reload(settings, executors or EXECUTORS, verifiers)

    def _unforeseen(self) -> None:
        life = self._life()
        if life is not None:
            self._simulation.theatre.is_loss_foreseen = True
            fates = (Fate.ODD_BEFORE, Fate.ODD_AFTER)
            count = self._chance.randint(1, 5)
            life.connection.odd = self._chance.choices(fates, k=count)

    # --- machines and clocks ----------------------------------------------------------

    def _reboot(self) -> None:
        machine = self._victim().machine
        for daemon in self._simulation.daemons:
            if daemon.machine is machine and daemon.alive is not None:
                self._simulation.crash(daemon.alive)
        machine.boot()

    def _sleep(self) -> None:
        self._victim().machine.sleep(self._chance.uniform(0.2, 4.0) * 3)

    def _wall_jump(self) -> None:
        machine = self._victim().machine
        machine.wall_offset += round(self._chance.uniform(-1e9, 1e9))

    def _database_jump(self) -> None:
        self._simulation.checker.has_clock_jumped = True
        seconds = self._chance.uniform(-15.0, 30.0)
        self._simulation.database_offset += round(seconds * 1e6)

    # --- what is far away -------------------------------------------------------------

    def _outage(self) -> None:
        sea = self._simulation.sea
        sea.is_black_hole = self._chance.random() < 0.5
        sea.was_black_hole |= sea.is_black_hole
        sea.down_until = self._world.now + self._outage_seconds()

    def _read_only(self) -> None:
        # Long enough for leases to run out while everybody still sees that they do.
        seconds = self._chance.uniform(0.5, 3.0) * self._simulation.plan.lease_seconds
        self._simulation.sea.read_only_until = self._world.now + seconds

    def _partition(self) -> None:
        life = self._life()
        if life is not None:
            seconds = self._chance.uniform(0.3, 3.0) * self._simulation.plan.lease_seconds
            life.connection.cut_until = self._world.now + seconds

    def _outage_seconds(self) -> float:
        if self._chance.random() < 0.05:
            return self._chance.uniform(30.0, 120.0)
        return self._chance.expovariate(1 / 3)

    def _dependency_down(self) -> None:
        name = self._chance.choice(("remote", "remote", "work"))
        until = self._world.now + self._chance.expovariate(1 / 4)
        self._simulation.theatre.down_until[name] = until


_STRIKES: dict[Fault, Callable[[Nemesis], None]] = {
    Fault.CRASH: Nemesis._crash,
    Fault.CRASH_AT_STEP: Nemesis._crash_at_step,
    Fault.CRASH_AT_WRITE: Nemesis._crash_at_write,
    Fault.STALL: Nemesis._stall,
    Fault.STALL_AT_STEP: Nemesis._stall_at_step,
    Fault.HICCUP: Nemesis._hiccup,
    Fault.DRAIN: Nemesis._drain,
    Fault.UNTIL_IDLE: Nemesis._until_idle,
    Fault.REBOOT: Nemesis._reboot,
    Fault.SLEEP: Nemesis._sleep,
    Fault.WALL_JUMP: Nemesis._wall_jump,
    Fault.DATABASE_JUMP: Nemesis._database_jump,
    Fault.OUTAGE: Nemesis._outage,
    Fault.READ_ONLY: Nemesis._read_only,
    Fault.PARTITION: Nemesis._partition,
    Fault.DEPENDENCY_DOWN: Nemesis._dependency_down,
    Fault.RELOAD: Nemesis._reload,
    Fault.UNFORESEEN: Nemesis._unforeseen,
}


class Sniper:
    """Waits until some process is at one place of the engine, and kills it there.

    Args:
        target: the await, or the write, in question.
        passes: how often the place may be passed unharmed before.
    """

    def __init__(
        self, simulation: Simulation, target: Site | WriteSite, passes: int
    ) -> None:
        self.has_hit = False
        self._simulation = simulation
        self._target = target
        self._passes = passes

    def aim(self, life: Life) -> None:
        """Watch one more process."""
        if self.has_hit:
            return
        if isinstance(self._target, WriteSite):
            life.connection.on_phase = lambda flight, phase: self._saw_write(
                life, flight, phase
            )
        else:
            life.process.loop.watch = lambda callback: self._saw_step(life, callback)

    def _saw_write(self, life: Life, flight: Flight, phase: str) -> None:
        if any(WriteSite(kind, phase) == self._target for kind in flight.kinds):
            self._saw(life)

    def _saw_step(self, life: Life, callback: Any) -> None:
        task = getattr(callback, "__self__", None)
        if not isinstance(task, asyncio.Task):
            return
        if any(site == self._target for site in suspended(task.get_coro())):
            self._saw(life)

    def _saw(self, life: Life) -> None:
        self._passes -= 1
        if self._passes < 0 and not self.has_hit and not self._simulation.is_calm:
            self.has_hit = True
            self._simulation.nemesis.crash_soon(life)
