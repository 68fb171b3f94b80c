"""Group commit: whatever is ready at one moment goes into one transaction.

Requests are gathered while the commit before them is on its way. Nobody hears of an
outcome before COMMIT returned. When the ledger does not answer, the identical batch is
repeated, under the same command id, before anything else is tried.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from orchd.engine.news import Newsroom
from orchd.ledger.port import Ledger, LedgerUnavailable, Outcome, Request
from orchd.system import System

logger = logging.getLogger(__name__)

BATCH_REQUESTS_MAX = 1_000
"""Most requests in one commit."""
WAVE_RUNS_MIN = 100
"""Fewer runs than these always end in one commit: two would cost more than they overlap."""
GATHER_TURNS_MAX = 4
"""Turns of the event loop granted to runs that are about to report."""
REPEAT_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses between repetitions of a batch; the last one holds for all later ones."""


class Entry(NamedTuple):
    """A request on its way, and who waits for it."""

    request: Request
    future: asyncio.Future[Outcome]
    ends_run: bool


ClaimSource = Callable[[int], Sequence[Entry]]
"""Given how many runs end in the batch, returns the claims to add to it."""


class Committer:
    """The only caller of `Ledger.commit` in a process."""

    def __init__(
        self,
        ledger: Ledger,
        system: System,
        newsroom: Newsroom,
        slots: Callable[[], int],
    ) -> None:
        self._ledger = ledger
        self._slots = slots
        self.wave_runs_min = WAVE_RUNS_MIN
        """As the constant says; the simulation, where few runs are at work, has less."""
        self._system = system
        self._newsroom = newsroom
        self._claims: ClaimSource = lambda ending: ()
        self._pending: deque[Entry] = deque()
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._busy = False
        self._sent_at: float | None = None
        self.unavailable_since: float | None = None
        """Monotonic second since which the ledger has not answered, or None."""
        self.trouble: str | None = None
        """What the ledger said last instead of an answer; None since it answers."""

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return not self._pending and not self._busy

    @property
    def waiting_seconds(self) -> float:
        """For how long the commit on its way has had no answer; 0 when there is none."""
        return 0.0 if self._sent_at is None else self._system.monotonic() - self._sent_at

    def set_claim_source(self, claims: ClaimSource) -> None:
        """Ask `claims` for claims whenever a batch is gathered."""
        self._claims = claims

    def start(self) -> None:
        """Begin committing."""
        self._task = asyncio.create_task(self._loop(), name="orchd-committer")

    async def stop(self) -> None:
        """Stop; what has not been committed is cancelled. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        while self._pending:
            self._pending.popleft().future.cancel()

    def wake(self) -> None:
        """Gather a batch soon: there may be something to claim."""
        self._woken.set()

    def offer(self, request: Request, *, ends_run: bool = False) -> asyncio.Future[Outcome]:
        """Queue a request; the future resolves when its outcome is durable."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._pending.append(Entry(request, future, ends_run))
        self._woken.set()
        return future

    async def _loop(self) -> None:
        while True:
            await self._woken.wait()
            await self._let_runs_report()
            self._woken.clear()
            batch = self._gather()
            if batch:
                self._busy, self._sent_at = True, self._system.monotonic()
                try:
                    await self._commit(batch)
                finally:
                    self._busy, self._sent_at = False, None

    async def _let_runs_report(self) -> None:
        # Runs that were started by one commit tend to end in the same few turns of the
        # loop; waiting for them makes one large commit out of many small ones.
        for _ in range(GATHER_TURNS_MAX):
            seen = len(self._pending)
            await self._system.sleep(0)
            if len(self._pending) == seen:
                return

    def _gather(self) -> list[Entry]:
        batch: list[Entry] = []
        ending, ending_max = 0, self._ending_max()
        while self._pending and len(batch) < BATCH_REQUESTS_MAX and ending < ending_max:
            entry = self._pending.popleft()
            ending += entry.ends_run
            batch.append(entry)
        if self._pending:
            self._woken.set()
        batch.extend(self._claims(ending))
        return batch

    def _ending_max(self) -> int:
        # With a database that works apart runs go in two waves: one is at work here while
        # the other is on its way to the disk.
        if not self._ledger.works_apart:
            return BATCH_REQUESTS_MAX
        return max(self.wave_runs_min, self._slots() // 2)

    async def _commit(self, batch: list[Entry]) -> None:
        try:
            await self._commit_or_split(batch)
        except asyncio.CancelledError:
            for entry in batch:
                entry.future.cancel()
            raise

    async def _commit_or_split(self, batch: list[Entry]) -> None:
        requests = [entry.request for entry in batch]
        started = self._system.monotonic()
        try:
            outcomes = await self._repeat(requests, self._system.new_id())
        except Exception as error:
            logger.exception("a commit of %d requests failed", len(batch))
            await self._fail(batch, error)
            return
        seconds = self._system.monotonic() - started
        for entry, outcome in zip(batch, outcomes, strict=True):
            if not entry.future.done():
                entry.future.set_result(outcome)
        self._newsroom.committed(requests, outcomes, seconds)

    async def _fail(self, batch: list[Entry], error: Exception) -> None:
        # Whichever request is at fault fails alone. Those that were carried out before
        # the error are safe to repeat: ids and tokens tell that they were.
        if len(batch) > 1:
            middle = len(batch) // 2
            await self._commit(batch[:middle])
            await self._commit(batch[middle:])
        elif not batch[0].future.done():
            batch[0].future.set_exception(error)

    async def _repeat(self, requests: list[Request], command_id: str) -> list[Outcome]:
        repeats = 0
        while True:
            try:
                outcomes = await self._ledger.commit(requests, command_id=command_id)
            except LedgerUnavailable as unavailable:
                self._note_unavailable(unavailable)
                pause = REPEAT_SECONDS[min(repeats, len(REPEAT_SECONDS) - 1)]
                repeats += 1
                await self._system.sleep(pause)
            else:
                self._note_available()
                return outcomes

    def _note_unavailable(self, unavailable: LedgerUnavailable) -> None:
        self.trouble = str(unavailable)
        if self.unavailable_since is None:
            self.unavailable_since = self._system.monotonic()
            logger.warning("the ledger is unavailable, repeating: %s", unavailable)

    def _note_available(self) -> None:
        if self.unavailable_since is not None:
            seconds = self._system.monotonic() - self.unavailable_since
            logger.warning("the ledger is available again after %.1f s", seconds)
            self.unavailable_since = self.trouble = None
