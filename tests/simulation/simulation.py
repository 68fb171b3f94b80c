"""One seed, from the first submission to the last daemon's end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from orchd.engine.committer import REPEAT_SECONDS
from orchd.interfaces import TaskStatus
from orchd.tasks.events import decode_event, decode_meta
from orchd.tasks.machine import Stamped, fold
from orchd.tasks.state import Phase, TaskState
from simulation.checker import Checker
from simulation.connection import Sea
from simulation.coverage import Coverage, Site, WriteSite
from simulation.daemon import Daemon, Life
from simulation.database import Committed, Database
from simulation.nemesis import Nemesis, Sniper
from simulation.plan import Plan, plan_for
from simulation.scripts import Theatre
from simulation.violations import Invariant, Violation
from simulation.witness import Witness
from simulation.workload import Workload
from simulation.world import EPOCH, Machine, World

HEAL_SECONDS_MAX = 400.0
"""How long everything that can finish may take when faults have stopped."""
LOOK_SECONDS = 0.25
STOP_SECONDS_MAX = 10.0
MARGIN_SECONDS = 1.5


class Report(msgspec.Struct):
    """What came of one seed."""

    seed: int
    events: int
    daemons: int
    crashes: int
    seconds: float
    """Virtual seconds."""
    steps: int
    coverage: Coverage
    violation: str = ""
    lines: list[str] = []


class Simulation:
    """The production engine in a world that one seed decides.

    Args:
        target: a place of the engine at which some process is to be killed, beside all
            that the seed does.
    """

    def __init__(
        self,
        seed: int,
        *,
        target: Site | WriteSite | None = None,
        tracing: bool = False,
    ) -> None:
        self.plan: Plan = plan_for(seed, targeted=target is not None)
        self.world = World(seed, tracing=tracing)
        self.chance = self.world.chance("simulation")
        self.database_offset = 0
        self.database = Database(self._database_clock)
        self.witness = Witness()
        self.theatre = Theatre(self.world, self.plan, self.witness)
        self.sea = Sea(self.plan.weather, self.world.chance("sea"))
        self.coverage = Coverage()
        self.is_calm = False
        """Faults are over."""
        self.is_ending = False
        """Daemons that end are not replaced any more."""
        self.crashes = 0
        self.steps = 0
        self.checker = Checker(
            self.world,
            self.database,
            self.witness,
            lease_seconds=self.plan.lease_seconds,
            limits=self.plan.limits,
            could_renew=self._could_renew,
            is_worker_alive=self._is_worker_alive,
            is_loss_foreseen=lambda: (
                self.theatre.is_loss_foreseen or self.sea.is_loss_foreseen
            ),
        )
        self.database.on_commit.append(self._spread_news)
        self.desk = Machine(self.world, "desk", self.chance)
        machines = [
            Machine(self.world, f"m{number + 1}", self.chance)
            for number in range(self.plan.machines)
        ]
        self.daemons = [
            Daemon(self, machines[number % len(machines)], number)
            for number in range(self.plan.daemons)
        ]
        self.nemesis = Nemesis(self)
        self.theatre.reload = self.nemesis.reload
        self.sniper: Sniper | None = None
        if target is not None:
            self.sniper = Sniper(self, target, self.chance.choice((0, 0, 0, 1, 3)))
        self.workload = Workload(self)
        self._stopped: set[str] = set()

    # --- what the parts ask for -------------------------------------------------------

    def _database_clock(self) -> int:
        return EPOCH + round(self.world.now * 1e6) + self.database_offset

    def _is_worker_alive(self, worker_id: str) -> bool:
        return any(life.engine.worker_id == worker_id for life in self.lives())

    def _could_renew(self, worker_id: str) -> bool:
        if not self.plan.weather.is_faithful:
            return False
        if self.sea.was_black_hole:
            return False
        before = self.world.now - self.plan.lease_seconds
        return any(
            not life.process.frozen
            and life.engine.worker_id == worker_id
            and max(life.process.thawed_at, life.connection.cut_until) < before
            for life in self.lives()
        )

    def _spread_news(self, commit: Committed) -> None:
        weather, chance = self.plan.weather, self.sea.chance
        for life in self.lives():
            for news in life.ledger.listeners:
                if news.hint.is_set() or chance.random() < weather.news_lost_rate:
                    continue
                delay = chance.random() * weather.news_delay_seconds
                self.world.after(delay, news.hint.set)

    def lives(self) -> list[Life]:
        """Return the daemons' processes that live."""
        return [daemon.life for daemon in self.daemons if daemon.alive and daemon.life]

    def serving(self) -> list[Life]:
        """Return the processes that take requests."""
        return [life for life in self.lives() if life.serving]

    def life_began(self, life: Life) -> None:
        """Take note of a new process."""
        if self.world.tracing:
            self.world.trace(f"{life.name} begins, pid {life.process.pid}")
        if self.sniper is not None:
            self.sniper.aim(life)

    def crash(self, life: Life) -> None:
        """Kill a process."""
        self.crashes += 1
        if self.world.tracing:
            self.world.trace(f"{life.name} crashes")
        self.coverage.note_crash(life.process, life.connection)
        self.steps += life.process.loop.steps
        life.end()

    def stopped(self, life: Life) -> None:
        """Take note that a process has stopped in good order, and check that it did."""
        self._stopped.add(life.name)
        if self._was_undisturbed(life, life.stopping_since):
            self._check_drain(life)
        if self.world.tracing:
            self.world.trace(f"{life.name} has stopped")

    def _was_undisturbed(self, life: Life, since: float) -> bool:
        if not self.plan.weather.is_faithful or self.checker.is_loss_foreseen():
            return False
        way = life.connection
        sea_until = max(self.sea.down_until, self.sea.read_only_until)
        away = max(way.cut_until, way.hung_until, sea_until)
        # What found the database away is repeated only after a pause.
        return max(life.process.thawed_at, away + REPEAT_SECONDS[-1]) < since

    def _check_drain(self, life: Life) -> None:
        worker = life.daemon.settings.worker
        took = self.world.now - life.stopping_since
        limit = worker.drain_timeout_seconds + worker.kill_grace_seconds + 1.0
        # What the process says of itself, and the end of its lease, come on top.
        if took > limit + MARGIN_SECONDS:
            self.world.fail(Invariant.DRAIN, f"{life.name} took {took:.3f} s, not {limit}")
        for state in self.database.tasks.values():
            if state.worker is not None and state.worker.startswith(f"{life.name}."):
                self.world.fail(Invariant.DRAIN, f"{life.name} left task {state.id}")

    # --- the course of a seed ---------------------------------------------------------

    def run(self) -> Report:
        """Let the seed happen; the report says whether anything broke."""
        with _errors_in_logs(self.world):
            try:
                self._run()
            except Violation as violation:
                return self._report(str(violation))
            finally:
                for process in self.world.processes:
                    process.on_end.clear()
                    process.end()
        return self._report("")

    def _run(self) -> None:
        for daemon in self.daemons:
            self.world.after(self.chance.random() * 0.3, daemon.begin)
        self.workload.schedule()
        self.nemesis.schedule()
        self.world.run(self.plan.chaos_seconds)
        self._heal()
        self._until_settled()
        self._until_idle()
        self._stop_all()
        self._check_all()

    def _heal(self) -> None:
        self.is_calm = self.sea.calm = True
        self.sea.down_until = min(self.sea.down_until, self.world.now)
        self.sea.read_only_until = min(self.sea.read_only_until, self.world.now)
        if self.world.tracing:
            self.world.trace("faults stop")
        self.theatre.heal()
        self.theatre.down_until.clear()
        for process in self.world.processes:
            process.machine.wake()
            process.wake()
        for daemon in self.daemons:
            daemon.heal()
            if daemon.life is not None:
                daemon.life.connection.heal()
            daemon.begin()

    def _until_settled(self) -> None:
        deadline = self.world.now + HEAL_SECONDS_MAX
        while not self._is_settled():
            if self.world.now > deadline:
                self._give_up("not settled", HEAL_SECONDS_MAX)
            if self.workload.is_answered:
                # What was to be paused may have been paused only now.
                self.workload.resume_everything()
            self.world.run(LOOK_SECONDS)

    def _is_settled(self) -> bool:
        if self.sea.writes_on_their_way or not self.workload.is_answered:
            return False
        lives = self.lives()
        if len(lives) < len(self.daemons) or not all(life.is_steady for life in lives):
            return False
        if not all(life.engine.committer.idle for life in lives):
            # What a client was told may still be carried out.
            return False
        if any(self._can_finish(state) for state in self.database.tasks.values()):
            return False
        return all(self._is_worker_alive(worker) for worker in self.database.workers)

    def _can_finish(self, state: TaskState) -> bool:
        if state.is_terminal:
            return False
        if state.status is TaskStatus.IN_PROGRESS or state.phase is Phase.VERIFY:
            return True
        return any(state.executor in life.engine.executor_names for life in self.lives())

    def _until_idle(self) -> None:
        waiting: dict[str, asyncio.Task[None]] = {}
        deadline = self.world.now + HEAL_SECONDS_MAX
        while not self._are_idle(waiting):
            if self.world.now > deadline:
                self._give_up("wait_until_idle does not return", HEAL_SECONDS_MAX)
            self.world.run(LOOK_SECONDS)
        for life in self.lives():
            if life.engine.running:
                self._broken(Invariant.LIVENESS, f"{life.name} is idle and still works")

    def _are_idle(self, waiting: dict[str, asyncio.Task[None]]) -> bool:
        # A daemon that was to leave when idle leaves now, and another takes its place.
        for life in self.lives():
            if life.name not in waiting and life.is_steady:
                task = life.process.loop.create_task(life.engine.wait_until_idle())
                task.add_done_callback(lambda done: self.world.stop())
                waiting[life.name] = task
        return all(
            life.name in waiting and waiting[life.name].done() for life in self.lives()
        )

    def _give_up(self, what: str, seconds: float) -> None:
        unfinished = [s for s in self.database.tasks.values() if self._can_finish(s)]
        detail = f"{what} after {seconds:g} s; workers {sorted(self.database.workers)}"
        open_requests = [o.name for o in self.workload.operations if o.outcomes is None]
        rows = "\n".join(map(str, unfinished[:3]))
        self._broken(Invariant.LIVENESS, f"{detail}\nunanswered: {open_requests}\n{rows}")

    def _stop_all(self) -> None:
        self.is_ending = True
        self._stopped.clear()
        lives = self.lives()
        begun = self.world.now
        for life in lives:
            life.ask_to_stop()
        while self._stopped != {life.name for life in lives}:
            if self.world.now > begun + STOP_SECONDS_MAX:
                late = {life.name for life in lives} - self._stopped
                self._broken(Invariant.DRAIN, f"{late} did not stop")
            self.world.run(LOOK_SECONDS)
        self.world.run(LOOK_SECONDS)
        for state in self.database.tasks.values():
            if state.status is TaskStatus.IN_PROGRESS:
                self._broken(Invariant.DRAIN, f"task {state.id} was left in progress")
        if self.database.workers:
            self._broken(Invariant.DRAIN, f"workers left: {list(self.database.workers)}")

    # --- the end ----------------------------------------------------------------------

    def _check_all(self) -> None:
        for position, entry in enumerate(self.database.log, start=1):
            if entry.position != position:
                self._broken(Invariant.DENSE, f"{entry.position} at {position}")
        for task_id in self.checker.acknowledged - self.database.tasks.keys():
            self._broken(Invariant.ACKNOWLEDGED, f"task {task_id} is gone")
        depth: dict[tuple[str, TaskStatus], int] = {}
        for task_id, state in self.database.tasks.items():
            if self._folded(task_id) != state:
                self._broken(Invariant.FOLD, f"task {task_id} at the end")
            depth[state.queue, state.status] = depth.get((state.queue, state.status), 0) + 1
        if depth != {k: n for k, n in self.database.schedule.depth.items() if n}:
            self._broken(Invariant.DERIVED, "the depths of queues")

    def _folded(self, task_id: str) -> TaskState | None:
        return fold(
            Stamped(
                task_id,
                entry.version,
                decode_event(entry.type, entry.data),
                decode_meta(entry.meta),
            )
            for entry in self.database.streams[f"task-{task_id}"]
        )

    def _broken(self, invariant: Invariant, detail: str) -> None:
        self.world.fail(invariant, detail)
        assert self.world.violation is not None
        raise self.world.violation

    def _report(self, violation: str) -> Report:
        return Report(
            seed=self.plan.seed,
            events=len(self.database.log),
            daemons=self.plan.daemons,
            crashes=self.crashes,
            seconds=self.world.now,
            steps=self.steps,
            coverage=self.coverage,
            violation=violation,
            lines=self.world.lines,
        )


class _Complaints(logging.Handler):
    """Turns what the engine logs as an error nobody foresaw into a broken rule."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is not None and record.exc_info[1] is not None:
            self._complain(record, record.exc_info[1])

    def _complain(self, record: logging.LogRecord, error: BaseException) -> None:
        if type(error).__name__ != "Unforeseen":
            detail = f"{record.getMessage()}: {error!r}"
            self._world.fail(Invariant.UNFORESEEN, detail)


@contextmanager
def _errors_in_logs(world: World) -> Iterator[None]:
    logger = logging.getLogger("orchd")
    handler = _Complaints(world)
    level, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates
