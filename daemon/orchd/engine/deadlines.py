"""Calls things when their time has come: neither early, nor more than a second late."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Callable

from orchd.system import System

logger = logging.getLogger(__name__)

LOOK_SECONDS_MAX = 1.0
"""Longest time between two looks at the clock. The event loop's own clock stands still
while the machine sleeps, the system's does not."""
LOOK_SECONDS_MIN = 0.001
"""What is due sooner is not worth a timer of its own."""
DEAD_ENTRIES_MIN = 64
"""Fewer cancelled entries are not worth tidying up."""

_Entry = tuple[float, int, "Deadline"]


class Deadline:
    """One call that is due at an instant. `cancel` it when it is not wanted any more."""

    __slots__ = ("_act", "_owner")

    def __init__(self, owner: Deadlines, act: Callable[[], None]) -> None:
        self._owner = owner
        self._act: Callable[[], None] | None = act

    @property
    def is_live(self) -> bool:
        """Whether the call is still to come."""
        return self._act is not None

    def cancel(self) -> None:
        """Let the call not happen; idempotent, also after it has happened."""
        if self._act is not None:
            self._act = None
            self._owner.note_cancelled()

    def forget(self) -> None:
        """Let the call not happen, with no word to the owner."""
        self._act = None

    def ring(self) -> None:
        """Make the call, at most once."""
        act, self._act = self._act, None
        if act is not None:
            try:
                act()
            except Exception:
                logger.exception("what was due could not be done")


class Deadlines:
    """All deadlines of an engine, behind one timer of the event loop.

    They are kept by `System.monotonic`, which no change of the wall clock moves and which
    counts while the machine sleeps: after a sleep all that is overdue rings within a
    second. Setting one costs O(log n), and so does cancelling it, in the long run: entries
    that were cancelled are dropped as soon as they are more than half of all.
    """

    def __init__(self, system: System) -> None:
        self._system = system
        self._heap: list[_Entry] = []
        self._numbers = itertools.count()
        self._cancelled = 0
        self._timer: asyncio.TimerHandle | None = None
        self._look_at = 0.0
        """The instant of the timer, by the system's clock."""

    def __len__(self) -> int:
        """Return how many calls are still to come."""
        return len(self._heap) - self._cancelled

    def after(self, seconds: float, act: Callable[[], None]) -> Deadline:
        """Call `act` in the event loop once so many seconds have passed."""
        now = self._system.monotonic()
        deadline = Deadline(self, act)
        heapq.heappush(self._heap, (now + seconds, next(self._numbers), deadline))
        self._set_timer(now)
        return deadline

    def note_cancelled(self) -> None:
        """Count an entry that is not wanted any more."""
        self._cancelled += 1
        if self._cancelled >= max(DEAD_ENTRIES_MIN, len(self._heap) / 2):
            self._heap = [entry for entry in self._heap if entry[2].is_live]
            heapq.heapify(self._heap)
            self._cancelled = 0
        if not len(self):
            self.close()

    def close(self) -> None:
        """Forget them all."""
        for entry in self._heap:
            entry[2].forget()
        self._heap.clear()
        self._cancelled = 0
        self._drop_timer()

    def _look(self) -> None:
        self._timer = None
        now = self._system.monotonic()
        while self._heap and self._heap[0][0] <= now:
            deadline = heapq.heappop(self._heap)[2]
            if deadline.is_live:
                deadline.ring()
            else:
                self._cancelled -= 1
        self._set_timer(now)

    def _set_timer(self, now: float) -> None:
        if not self._heap:
            return
        wait = min(max(self._heap[0][0] - now, LOOK_SECONDS_MIN), LOOK_SECONDS_MAX)
        if self._timer is not None and self._look_at <= now + wait:
            return
        self._drop_timer()
        self._look_at = now + wait
        self._timer = asyncio.get_running_loop().call_later(wait, self._look)

    def _drop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
