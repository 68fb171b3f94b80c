"""Group commit: whatever is ready at one moment goes into one transaction.

Requests are gathered while the commit before them is on its way; with a ledger that takes
two at once, many requests need not wait for its answer. Nobody hears of an outcome before
COMMIT returned. When the ledger does not answer, the identical batch is repeated, under the
same command id, before anything else is tried in its place.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

from orchd.engine.news import Newsroom
from orchd.ledger.port import Ledger, LedgerUnavailable, Outcome, Request
from orchd.system import System

logger = logging.getLogger(__name__)

BATCH_REQUESTS_MAX = 1_000
"""From so many requests on a commit takes no more, but for what goes with the last one."""
WAVE_MIN = 16
"""How many requests are worth a commit of their own while another is under way. Fewer
travel together: two commits would cost more than they overlap."""
GATHER_TURNS_MAX = 4
"""Turns of the event loop granted to runs that are about to report."""
REPEAT_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses between repetitions of a batch; the last one holds for all later ones."""


class Reply(Protocol):
    """Who is told what came of a request, once it is durable. A future is one."""

    def done(self) -> bool:
        """Tell whether it has been told, or does not want to be any more."""

    def set_result(self, outcome: Outcome, /) -> None:
        """Hear the outcome."""

    def set_exception(self, error: BaseException, /) -> None:
        """Hear that the request could not be carried out."""

    def cancel(self) -> object:
        """Hear that nobody carries it out any more."""


class Entry(NamedTuple):
    """A request on its way, and who waits for it."""

    request: Request
    reply: Reply
    ends_run: bool = False
    goes_along: bool = False
    """Whether it shares a commit with the one before it."""


class UnderWay(NamedTuple):
    """A batch that has been sent and has no answer yet."""

    sent_at: float
    """Monotonic second."""
    batch: Sequence[Entry]

    @property
    def ending(self) -> int:
        """How many runs end in it; a batch that is carried out in parts is answered so."""
        return sum(entry.ends_run and not entry.reply.done() for entry in self.batch)


ClaimSource = Callable[[int, int], Sequence[Entry]]
"""Given how many runs end in the batch, and how many in those under way, returns the claims
to add to it."""


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
        self.wave_min = WAVE_MIN
        """As the constant says; the simulation, where few runs are at work, has less."""
        self._system = system
        self._newsroom = newsroom
        self._claims: ClaimSource = lambda ending, elsewhere: ()
        self._pending: deque[Entry] = deque()
        self._woken = asyncio.Event()
        self._has_room = asyncio.Event()
        self._gathering = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False
        self._under_way: list[UnderWay] = []
        self._unsettled: set[str] = set()
        """Commands that had no answer and are repeated."""
        self.unavailable_since: float | None = None
        """Monotonic second since which the ledger has not answered, or None."""
        self.trouble: str | None = None
        """What the ledger said last instead of an answer; None since it answers."""

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return not self._pending and not self._under_way

    @property
    def waiting_seconds(self) -> float:
        """For how long a commit on its way has had no answer; 0 when there is none."""
        if not self._under_way:
            return 0.0
        return self._system.monotonic() - min(each.sent_at for each in self._under_way)

    def set_claim_source(self, claims: ClaimSource) -> None:
        """Ask `claims` for claims whenever a batch is gathered."""
        self._claims = claims

    def start(self) -> None:
        """Begin committing."""
        self._tasks = [
            asyncio.create_task(self._loop(), name="orchd-committer")
            for _ in range(self._ledger.commits_max)
        ]

    async def stop(self) -> None:
        """Stop for good; what has not been committed, and what comes, is cancelled."""
        self._stopped = True
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        while self._pending:
            self._pending.popleft().reply.cancel()

    def wake(self) -> None:
        """Gather a batch soon: there may be something to claim."""
        self._woken.set()

    def offer(self, request: Request) -> asyncio.Future[Outcome]:
        """Queue a request; the future resolves when its outcome is durable."""
        return self._add(request)

    def report(self, request: Request, reply: Reply, *, ends_run: bool) -> None:
        """Queue a request for somebody who does not wait.

        `reply` is called as soon as the commit has been answered, and must not raise.
        """
        self._queue(Entry(request, reply, ends_run=ends_run))

    def offer_together(self, requests: Sequence[Request]) -> list[asyncio.Future[Outcome]]:
        """Queue requests that go into one commit."""
        return [
            self._add(request, goes_along=place > 0)
            for place, request in enumerate(requests)
        ]

    def _add(
        self, request: Request, *, goes_along: bool = False
    ) -> asyncio.Future[Outcome]:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._queue(Entry(request, future, goes_along=goes_along))
        return future

    def _queue(self, entry: Entry) -> None:
        if self._stopped:
            entry.reply.cancel()
            return
        self._pending.append(entry)
        self._woken.set()
        if len(self._pending) == self.wave_min:
            self._has_room.set()

    async def _loop(self) -> None:
        while True:
            async with self._gathering:
                batch = await self._next()
            if not batch:
                continue
            self._under_way.append(under_way := UnderWay(self._system.monotonic(), batch))
            try:
                await self._commit(batch)
            finally:
                self._under_way.remove(under_way)
                self._has_room.set()

    async def _next(self) -> list[Entry]:
        await self._woken.wait()
        while self._under_way and len(self._pending) < self.wave_min:
            self._has_room.clear()
            await self._has_room.wait()
        await self._let_runs_report()
        self._woken.clear()
        return self._gather()

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
        while self._pending and (
            self._pending[0].goes_along
            or (len(batch) < BATCH_REQUESTS_MAX and ending < ending_max)
        ):
            entry = self._pending.popleft()
            ending += entry.ends_run
            batch.append(entry)
        if self._pending:
            self._woken.set()
        elsewhere = sum(each.ending for each in self._under_way)
        batch.extend(self._claims(ending, elsewhere))
        return batch

    def _ending_max(self) -> int:
        # With a ledger that takes two commits at once, runs go in two waves: one is at work
        # here while the other is on its way to the disk.
        half = self._slots() // 2
        is_worth_it = self._ledger.commits_max > 1 and half >= self.wave_min
        return half if is_worth_it else BATCH_REQUESTS_MAX

    async def _commit(self, batch: list[Entry]) -> None:
        try:
            await self._commit_or_split(batch)
        except asyncio.CancelledError:
            for entry in batch:
                entry.reply.cancel()
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
            if not entry.reply.done():
                _tell(entry.reply, outcome)
        self._newsroom.committed(requests, outcomes, seconds)

    async def _fail(self, batch: list[Entry], error: Exception) -> None:
        # Whichever request is at fault fails alone. Those that were carried out before
        # the error are safe to repeat: ids and tokens tell that they were.
        if len(batch) > 1:
            middle = len(batch) // 2
            await self._commit(batch[:middle])
            await self._commit(batch[middle:])
        elif not batch[0].reply.done():
            batch[0].reply.set_exception(error)

    async def _repeat(self, requests: list[Request], command_id: str) -> list[Outcome]:
        repeats = 0
        while True:
            try:
                outcomes = await self._ledger.commit(requests, command_id=command_id)
            except LedgerUnavailable as unavailable:
                self._note_unavailable(command_id, unavailable)
                pause = REPEAT_SECONDS[min(repeats, len(REPEAT_SECONDS) - 1)]
                repeats += 1
                await self._system.sleep(pause)
            except Exception:
                self._unsettled.discard(command_id)
                raise
            else:
                self._note_answer(command_id)
                return outcomes

    def _note_unavailable(self, command_id: str, unavailable: LedgerUnavailable) -> None:
        self.trouble = str(unavailable)
        self._unsettled.add(command_id)
        if self.unavailable_since is None:
            self.unavailable_since = self._system.monotonic()
            logger.warning("the ledger is unavailable, repeating: %s", unavailable)

    def _note_answer(self, command_id: str) -> None:
        self._unsettled.discard(command_id)
        if self.unavailable_since is not None and not self._unsettled:
            seconds = self._system.monotonic() - self.unavailable_since
            logger.warning("the ledger is available again after %.1f s", seconds)
            self.unavailable_since = self.trouble = None


def _tell(reply: Reply, outcome: Outcome) -> None:
    try:
        reply.set_result(outcome)
    except Exception as error:
        # The others must hear all the same, and the loop knows what to do when there is no
        # memory left.
        asyncio.get_running_loop().call_exception_handler(
            {"message": "an outcome could not be passed on", "exception": error}
        )
