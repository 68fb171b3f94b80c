"""The way between a process and the database, and everything that goes wrong on it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, TypeVar

from orchd.ledger.port import LedgerUnavailable
from simulation.plan import Weather
from simulation.world import Process

T = TypeVar("T")


class Unforeseen(RuntimeError):
    """An error that no ledger is documented to raise."""


class Fate(StrEnum):
    """What becomes of one write."""

    ANSWERED = "answered"
    LOST = "lost"
    """It never arrives; the caller hears that the database is unavailable."""
    UNKNOWN = "unknown"
    """It is applied; the caller hears that the database is unavailable."""
    LATE = "late"
    """The caller hears that the database is unavailable; then it is applied."""
    ODD_BEFORE = "odd before"
    """It never arrives; the caller gets an error that nobody foresees."""
    ODD_AFTER = "odd after"
    """It is applied; the caller gets an error that nobody foresees."""


class Sea:
    """What all connections of a world have in common: is the database there at all?"""

    def __init__(self, weather: Weather, chance: random.Random) -> None:
        self.weather = weather
        self.chance = chance
        self.down_until = 0.0
        self.read_only_until = 0.0
        """Until when writes are refused and reads are answered: a full disk, a standby."""
        self.is_black_hole = False
        """Whether calls hang while the database is down, instead of being refused."""
        self.was_black_hole = False
        """Whether calls may have hung."""
        self.calm = False
        """Faults are over."""
        self.writes_on_their_way = 0
        """How many may still be applied, also those of processes that have ended."""
        self.is_loss_foreseen = False
        """Whether a claim may have been applied that nobody will hear of."""

    def delay_seconds(self) -> float:
        """Return how long one way takes this time."""
        weather, chance = self.weather, self.chance
        if not self.calm and weather.slow_rate and chance.random() < weather.slow_rate:
            return chance.random() * weather.slow_seconds
        return chance.random() * weather.latency_seconds


class Flight:
    """One write on its way."""

    __slots__ = ("answer", "applied", "command_id", "is_dropped", "kinds", "write")

    def __init__(
        self,
        kinds: Sequence[str],
        write: Callable[[], Any],
        answer: asyncio.Future[Any],
        command_id: str,
    ) -> None:
        self.kinds = kinds
        self.command_id = command_id
        self.write = write
        self.answer = answer
        self.applied = False
        self.is_dropped = False


class Connection:
    """A `Route` on which calls take time, get lost, and arrive when nobody waits.

    Args:
        sole_writer: nothing is under way any more when the process has ended.
    """

    def __init__(self, process: Process, sea: Sea, *, sole_writer: bool) -> None:
        self.flights: list[Flight] = []
        self.cut_until = 0.0
        self.hung_until = 0.0
        """When the last of the calls that hung was refused, or is to be."""
        self._late: dict[str, list[Flight]] = {}
        """Commands that may be applied after their caller has given them up."""
        self.odd: list[Fate] = []
        """The fates of the next commits, if they are to be odd ones."""
        self.on_phase: Callable[[Flight, str], object] | None = None
        """Told of a write's phases: `before` it is sent, and `after` it was applied."""
        self._process = process
        self._world = process.world
        self._sea = sea
        self._sole_writer = sole_writer
        process.on_end.append(self._process_ended)

    @property
    def is_down(self) -> bool:
        """Whether the database cannot be reached from here."""
        return self._world.now < max(self._sea.down_until, self.cut_until)

    @property
    def is_read_only(self) -> bool:
        """Whether nothing can be written from here."""
        return self.is_down or self._world.now < self._sea.read_only_until

    def heal(self) -> None:
        """Let nothing that was prepared go wrong any more."""
        self.cut_until = min(self.cut_until, self._world.now)
        self.odd.clear()
        self.on_phase = None

    # --- reads ------------------------------------------------------------------------

    async def read(self, read: Callable[[], T]) -> T:
        answer: asyncio.Future[T] = self._process.loop.create_future()
        delay = self._sea.delay_seconds()
        if self.is_down or self._is_struck(self._sea.weather.read_error_rate):
            self._refuse(answer, delay)
        elif self._sea.chance.random() < 0.5:
            # Read at once and answered late: by then it may be otherwise.
            self._answer(answer, delay, read())
        else:
            self._world.after(delay, lambda: self._read_late(answer, read))
        return await answer

    def _read_late(self, answer: asyncio.Future[T], read: Callable[[], T]) -> None:
        if self._process.alive:
            _resolve(answer, read())

    # --- writes -----------------------------------------------------------------------

    async def write(
        self, kinds: Sequence[str], write: Callable[[], T], command_id: str = ""
    ) -> T:
        answer: asyncio.Future[T] = self._process.loop.create_future()
        flight = Flight(kinds, write, answer, command_id)
        self.flights.append(flight)
        if self.on_phase is not None:
            self.on_phase(flight, "before")
        fate = self._fate(kinds)
        self._sea.writes_on_their_way += 1
        self._world.after(self._sea.delay_seconds(), lambda: self._arrive(flight, fate))
        try:
            return await answer
        finally:
            self.flights.remove(flight)

    def _fate(self, kinds: Sequence[str]) -> Fate:
        weather, chance = self._sea.weather, self._sea.chance
        if self.odd and not kinds[0].startswith("lease/"):
            return self.odd.pop()
        if self.is_read_only:
            return Fate.LOST
        if not self._is_struck(weather.write_error_rate):
            return Fate.ANSWERED
        if self._sole_writer:
            return chance.choice((Fate.LOST, Fate.UNKNOWN))
        return chance.choice((Fate.LOST, Fate.UNKNOWN, Fate.LATE))

    def _is_struck(self, rate: float) -> bool:
        return bool(rate) and not self._sea.calm and self._sea.chance.random() < rate

    def _arrive(self, flight: Flight, fate: Fate) -> None:
        self._sea.writes_on_their_way -= 1
        answer, delay = flight.answer, self._sea.delay_seconds()
        if fate is Fate.LATE:
            self._refuse(answer, delay)
            late = self._sea.chance.expovariate(1.0)
            self._sea.writes_on_their_way += 1
            self._late.setdefault(flight.command_id, []).append(flight)
            self._world.after(delay + late, lambda: self._apply_late(flight))
        elif fate is Fate.ANSWERED and self.is_read_only:
            # The database refused writes, or went away, while this one was on its way.
            if self._sea.chance.random() < 0.5:
                self._apply(flight)
            self._refuse(answer, delay)
        elif fate is Fate.LOST:
            self._refuse(answer, delay)
        elif fate is Fate.ODD_BEFORE:
            self._fail(answer, delay, Unforeseen("before the commit"))
        else:
            self._settle(flight, fate, delay)

    def _apply_late(self, flight: Flight) -> None:
        self._sea.writes_on_their_way -= 1
        if not flight.applied and not flight.is_dropped:
            self._late[flight.command_id].remove(flight)
            self._settle_doubt(flight.command_id)
            self._apply(flight)

    def _settle_doubt(self, command_id: str) -> None:
        """End the doubt about a command before another try of it is carried out.

        A repetition waits for the locks of earlier tries, which by then have been applied
        or not. Seldom a try had not even arrived, and is let loose: should the repetition
        leave nothing in the log, what that claims later is nobody's.
        """
        tries, self._late[command_id] = self._late.get(command_id, []), []
        for flight in tries:
            fate = self._sea.chance.random()
            if fate < self._sea.weather.stray_rate:
                self._sea.is_loss_foreseen = True
                self._late[command_id].append(flight)
            elif fate < 0.5:
                self._apply(flight)
            else:
                flight.is_dropped = True

    def _settle(self, flight: Flight, fate: Fate, delay: float) -> None:
        self._settle_doubt(flight.command_id)
        result = self._apply(flight)
        if fate is Fate.UNKNOWN:
            self._refuse(flight.answer, delay)
        elif fate is Fate.ODD_AFTER:
            self._fail(flight.answer, delay, Unforeseen("after the commit"))
        else:
            self._answer(flight.answer, delay, result)

    def _apply(self, flight: Flight) -> Any:
        if flight.is_dropped:
            return None
        result = flight.write()
        flight.applied = True
        if self.on_phase is not None and self._process.alive:
            self.on_phase(flight, "after")
        return result

    def _process_ended(self) -> None:
        for flight in self.flights:
            # What was sent may arrive all the same, unless the database died as well.
            if self._sole_writer or self._sea.chance.random() < 0.5:
                flight.is_dropped = True

    # --- answers ----------------------------------------------------------------------

    def _answer(self, answer: asyncio.Future[T], delay: float, result: T) -> None:
        self._world.after(delay, lambda: _resolve(answer, result))

    def _refuse(self, answer: asyncio.Future[Any], delay: float) -> None:
        if self.is_down and self._sea.is_black_hole:
            delay = self._sea.chance.uniform(delay, self._sea.weather.hang_seconds)
            self.hung_until = max(self.hung_until, self._world.now + delay)
        self._fail(answer, delay, LedgerUnavailable("simulated"))

    def _fail(self, answer: asyncio.Future[Any], delay: float, error: Exception) -> None:
        self._world.after(delay, lambda: _reject(answer, error))


def _resolve(answer: asyncio.Future[T], result: T) -> None:
    if not answer.done():
        answer.set_result(result)


def _reject(answer: asyncio.Future[Any], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
