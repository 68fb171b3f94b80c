"""The world of one seed: one true time, machines with clocks, processes with loops."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Coroutine
from typing import Any

from simulation.loop import NEVER, VirtualLoop
from simulation.violations import Invariant, Violation

EPOCH = 1_750_000_000_000_000
"""The instant at which every world begins, in microseconds."""
TURN_SECONDS = 0.00001
"""What a turn of an event loop costs, so that time passes even for who never waits."""
BUSY_TURNS_MAX = 50
"""So many turns may pass before timers are looked at all the same."""
LIVELOCK_TURNS = 200_000

Action = Callable[[], object]


class World:
    """Drives processes and events in the order of one virtual time.

    Everything that happens is decided by `seed`: nothing here reads a clock, and whoever
    needs chance takes a stream of it by name.

    Args:
        tracing: whether to keep a line of everything that happens.
    """

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        self.seed = seed
        self.now = 0.0
        """True seconds since the world began."""
        self.violation: Violation | None = None
        self.tracing = tracing
        self.lines: list[str] = []
        self.processes: list[Process] = []
        self._events: list[tuple[float, int, Action]] = []
        self._sequence = 0
        self._urgent: list[Action] = []
        self._stop = False

    def chance(self, name: str) -> random.Random:
        """Return a stream of chance of its own."""
        return random.Random(f"{self.seed}/{name}")

    def trace(self, line: str) -> None:
        """Keep what happened; call it only when `tracing`."""
        self.lines.append(f"{self.now:.6f} {line}")

    def fail(self, invariant: Invariant, detail: str) -> None:
        """Note the first broken rule and stop."""
        if self.violation is None:
            self.violation = Violation(invariant, detail, self.now)
            if self.tracing:
                self.trace(f"VIOLATION {invariant}: {detail}")
        self.stop()

    def stop(self) -> None:
        """Let `run` return."""
        self._stop = True

    def after(self, seconds: float, action: Action) -> None:
        """Let something happen at a later time."""
        self._sequence += 1
        heapq.heappush(self._events, (self.now + seconds, self._sequence, action))

    def soon(self, action: Action) -> None:
        """Let something happen before any process takes another turn."""
        self._urgent.append(action)

    def run(self, seconds: float) -> None:
        """Let time pass until someone calls `stop`, for so many seconds at most."""
        end = self.now + seconds
        self._stop = False
        busy, turns = 0, 0
        while not self._stop:
            if busy < BUSY_TURNS_MAX and self._take_turns():
                self.now += TURN_SECONDS
                busy += 1
                turns += 1
                if turns > LIVELOCK_TURNS:
                    self.fail(Invariant.LIVENESS, f"{turns} turns within {seconds:g} s")
                continue
            if not self._advance(end, waiting=busy < BUSY_TURNS_MAX):
                break
            busy = 0
        if self.violation is not None:
            raise self.violation

    def _take_turns(self) -> bool:
        took = False
        for process in self.processes:
            if process.loop.ready and not process.frozen:
                process.loop.turn()
                took = True
                if self._urgent:
                    self._be_urgent()
                if self._stop:
                    break
        return took

    def _be_urgent(self) -> None:
        urgent, self._urgent = self._urgent, []
        for action in urgent:
            action()

    def _advance(self, end: float, *, waiting: bool) -> bool:
        """Go to the next moment at which something happens, or at least look at timers;
        False when there is none before the end."""
        when = self._events[0][0] if self._events else NEVER
        dues: list[tuple[float, Process]] = []
        for process in self.processes:
            if not process.frozen and process.loop.timers:
                due = process.next_timer()
                dues.append((due, process))
                when = due if due < when else when
        if waiting:
            if when >= end:
                self.now = max(self.now, end)
                return False
            self.now = max(self.now, when)
        for due, process in dues:
            if due <= self.now:
                process.ring()
        while self._events and self._events[0][0] <= self.now and not self._stop:
            heapq.heappop(self._events)[2]()
            if self._urgent:
                self._be_urgent()
        return True


class Machine:
    """Where processes run: its clocks jump and stop for all of them together."""

    def __init__(self, world: World, name: str, chance: random.Random) -> None:
        self.world = world
        self.name = name
        self.wall_offset = chance.randrange(-500_000, 500_000)
        self.woke_at = -NEVER
        """When it last woke from a sleep."""
        self._chance = chance
        self._boots = 0
        self._pids = 0
        self._started: dict[int, int] = {}
        self.boot()

    def boot(self) -> None:
        """Begin anew: monotonic clocks at zero, pids from the bottom."""
        self._boots += 1
        self.boot_id = f"boot-{self.name}-{self._boots}"
        self.booted_at = self.world.now - self._chance.uniform(1.0, 1000.0)
        self.asleep_since: float | None = None
        self.lag = self.booted_at
        """How far the monotonic clock is behind the true time, in seconds."""
        self._pids = 100
        self._started.clear()

    def begin_process(self) -> tuple[int, int]:
        """Return the pid and the start, in ticks since boot, of a new process."""
        # Pids come again soon, as they do after a restart in a container.
        self._pids = 100 + (self._pids + 1) % 5
        while self._pids in self._started:
            self._pids += 1
        start = round(self.boottime() * 100) * 10 + self._chance.randrange(10)
        self._started[self._pids] = start
        return self._pids, start

    def end_process(self, pid: int) -> None:
        """Forget a process."""
        self._started.pop(pid, None)

    def process_start(self, pid: int) -> int | None:
        """Return when a process that runs here started."""
        return self._started.get(pid)

    def boottime(self) -> float:
        """Return seconds since the boot, sleep included."""
        return self.world.now - self.booted_at

    def monotonic(self) -> float:
        """Return seconds since the boot, sleep left out: the clock of event loops."""
        return self.world.now - self.lag

    def wall(self) -> int:
        """Return the wall clock in microseconds."""
        return EPOCH + round(self.world.now * 1e6) + self.wall_offset

    def sleep(self, seconds: float) -> None:
        """Suspend the whole machine for so long."""
        if self.asleep_since is not None:
            return
        self.asleep_since = began = self.world.now
        # Arranged first, so that at that moment it comes before the processes' thaw.
        self.world.after(seconds, lambda: self._wake_from(began))
        for process in self.world.processes:
            if process.machine is self:
                process.freeze(seconds)

    def _wake_from(self, began: float) -> None:
        if self.asleep_since == began:
            self.wake()

    def wake(self) -> None:
        """End a sleep; its processes still have to thaw."""
        if self.asleep_since is not None:
            self.lag += self.world.now - self.asleep_since
            self.asleep_since = None
            self.woke_at = self.world.now


class Process:
    """One process: an event loop that can be frozen and killed."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        self.world = machine.world
        self.name = name
        self.pid, self.start = machine.begin_process()
        self.loop = VirtualLoop(  # type: ignore[abstract]  # nobody asks it for the rest
            machine.monotonic, self._complain
        )
        self.frozen = False
        self.thawed_at = self.world.now
        """Since when it has been running without a break."""
        self.alive = True
        self.on_end: list[Action] = []
        """Called when the process ends, however it does, before its coroutines close."""
        self._frozen_until = 0.0
        self.world.processes = [*self.world.processes, self]

    def spawn(self, coroutine: Coroutine[Any, Any, object], name: str) -> None:
        """Begin a coroutine on the process's loop."""
        if self.alive:
            self.loop.create_task(coroutine, name=name)
        else:
            coroutine.close()

    def next_timer(self) -> float:
        """Return when the next timer is due, in true time."""
        return self.loop.next_timer() + self.machine.lag

    def ring(self) -> None:
        """Make ready the timers that are due."""
        loop, lag, now = self.loop, self.machine.lag, self.world.now
        while loop.next_timer() + lag <= now:
            loop.ring()

    def freeze(self, seconds: float) -> None:
        """Stop for so long, as SIGSTOP does."""
        until = self.world.now + seconds
        if not self.alive or (self.frozen and until <= self._frozen_until):
            return
        self.frozen, self._frozen_until = True, until
        self.loop.pausing = True
        self.world.after(seconds, self._thaw)

    def _thaw(self) -> None:
        if self.alive and self.world.now >= self._frozen_until:
            self.wake()

    def wake(self) -> None:
        """End any freeze now."""
        if self.frozen:
            self.frozen, self._frozen_until = False, self.world.now
            self.thawed_at = self.world.now

    def end(self) -> None:
        """End at once; nothing that was begun goes on."""
        if not self.alive:
            return
        self.alive = False
        self.loop.pausing = True
        self.world.processes = [p for p in self.world.processes if p is not self]
        self.machine.end_process(self.pid)
        for action in self.on_end:
            action()
        self.loop.abandon()

    def _complain(self, message: str, error: BaseException | None) -> None:
        if self.alive:
            self.world.fail(Invariant.UNFORESEEN, f"{self.name}: {message} ({error!r})")
