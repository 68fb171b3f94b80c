"""Decides when to claim, and how much."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from orchd.config.settings import Settings
from orchd.engine.breakers import BreakerWatch
from orchd.engine.clock import LedgerClock
from orchd.engine.committer import Entry
from orchd.interfaces import Task
from orchd.ledger.port import Claimed, ClaimedTask, ClaimTasks, Origin, Outcome

logger = logging.getLogger(__name__)


class Claimer:
    """Fills the free slots: its claims travel in the commits of the runs that end.

    It is `hungry` while another claim may find something: after it was woken, and as long
    as claims come back full. A task that must run alone first lets the others end.
    """

    def __init__(
        self,
        *,
        settings: Callable[[], Settings],
        clock: LedgerClock,
        breakers: BreakerWatch,
        worker_id: Callable[[], str],
        running: Callable[[], int],
        capabilities: Callable[[], tuple[tuple[str, ...], tuple[str, ...]]],
        received: Callable[[ClaimedTask], None],
        settled: Callable[[], None],
        on_start: Callable[[Task], None] | None = None,
        gate: Callable[[], bool] | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._breakers = breakers
        self._worker_id = worker_id
        self._running = running
        self._capabilities = capabilities
        self._received = received
        self._settled = settled
        self._on_start = on_start
        self._gate = gate
        self._under_way: dict[int, ClaimTasks] = {}
        """Claims without an answer, by their numbers."""
        self.begun = 0
        """How many claims were made; each has the number at its time."""
        self._alone_waiting = False
        self._alone_running = False
        self._alone_missed_at = -1
        self._probed_at = -1
        self._probes_missed: dict[str, None] = {}
        """Executors whose probe found nothing that may run beside others, in order."""
        self._is_sated = False
        """Whether the last claim found all that was ready. A slot that comes free then
        starts nothing, until something else wakes this."""
        self.hungry = False
        self.enabled = False
        self.wakes = 0
        """Rises with every wake, so that an idle check can tell whether it missed one."""

    @property
    def busy(self) -> bool:
        """Whether a claim is on its way."""
        return bool(self._under_way)

    @property
    def answered(self) -> int:
        """Up to which number all claims have been answered."""
        return min(self._under_way, default=self.begun + 1) - 1

    def wake(self) -> None:
        """Claim at the next opportunity."""
        self.hungry = True
        self.wakes += 1
        self._is_sated = False

    def run_ended(self) -> None:
        """Claim again, unless the last claim left nothing that this end may let start."""
        if not self._is_sated:
            self.wake()

    def claims(self, ending: int, elsewhere: int) -> list[Entry]:
        """Return the claims to add to a commit.

        Args:
            ending: how many runs end in it.
            elsewhere: how many runs end in another commit that is under way. Their slots
                are as good as free, but as long as they have not ended on disk nothing
                that must run alone may start.
        """
        if not self.enabled or not self._wants():
            return []
        reserved = sum(claim.slots for claim in self._under_way.values())
        occupied = self._running() - ending + reserved
        if occupied <= 0:
            self._alone_running = False
        if self._alone_running or (self._alone_waiting and occupied > 0):
            return []
        free = self._settings().worker.concurrency - (occupied - elsewhere)
        if free <= 0:
            return []
        if self._alone_waiting:
            return [self._entry(self._claim(1, alone=True))]
        if occupied <= 0 and self._probes_missed:
            # What is left to probe with must run alone, and nothing else runs now.
            missed = next(iter(self._probes_missed))
            del self._probes_missed[missed]
            return [self._entry(self._claim(1, alone=True, probe=missed))]
        claims = self._probes(free)
        if free > len(claims):
            claims.append(self._claim(free - len(claims)))
        return [self._entry(claim) for claim in claims]

    def _wants(self) -> bool:
        if not self._under_way:
            return self.hungry
        # What the claim under way will find is not known yet. As long as there was enough
        # for all, there is likely to be more.
        return not (self._is_sated or self._is_particular()) and all(
            self._is_plain(claim) for claim in self._under_way.values()
        )

    def _probes(self, free: int) -> list[ClaimTasks]:
        # Once a wake: a probe that finds nothing must not keep the slots from the others.
        if self._probed_at == self.wakes:
            return []
        self._probed_at = self.wakes
        return [self._claim(1, probe=name) for name in self._breakers.probes()[:free]]

    def _claim(
        self, slots: int, *, alone: bool = False, probe: str | None = None
    ) -> ClaimTasks:
        settings = self._settings()
        executors, verifiers = self._capabilities()
        limits = {n: q.concurrency for n, q in settings.queues.items() if q.concurrency > 0}
        return ClaimTasks(
            worker=self._worker_id(),
            slots=slots,
            now=self._clock.now(),
            executors=executors,
            verifiers=verifiers,
            queues=settings.worker.queues,
            limits=limits,
            probe=probe,
            alone=alone,
            max_crashes=settings.retry.max_crashes,
            origin=Origin(actor="worker", worker=self._worker_id()),
            on_start=self._on_start,
            gate=self._gate,
        )

    def _entry(self, claim: ClaimTasks) -> Entry:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.begun += 1
        number = self.begun
        self._under_way[number] = claim
        self.hungry = False
        future.add_done_callback(lambda done: self._claimed(number, done))
        return Entry(claim, future)

    def _claimed(self, number: int, future: asyncio.Future[Outcome]) -> None:
        self._take(self._under_way.pop(number), future)
        self._settled()

    def _take(self, claim: ClaimTasks, future: asyncio.Future[Outcome]) -> None:
        if future.cancelled() or future.exception() is not None:
            return
        outcome = future.result()
        if not isinstance(outcome, Claimed):
            return
        if claim.alone:
            self._alone_running = bool(outcome.tasks)
            self._alone_waiting = False
            if not outcome.tasks and claim.probe is None:
                self._alone_missed_at = self.wakes
        if claim.probe is not None and outcome.tasks:
            self._breakers.probe_started(claim.probe)
        elif claim.probe is not None and not claim.alone:
            self._probes_missed[claim.probe] = None
        if claim.probe is None:
            # What could not be had alone, for its queue's limit for example, is not asked
            # for again before something has changed.
            missed = self._alone_missed_at == self.wakes
            self._alone_waiting = outcome.alone_waiting and not (claim.alone or missed)
        if (
            claim.probe is not None
            or self._alone_waiting
            or len(outcome.tasks) >= claim.slots
            or claim.alone
        ):
            self.hungry = True
        self._is_sated = self._took_all(claim, outcome)
        for task in outcome.tasks:
            self._begin(task)

    def _took_all(self, claim: ClaimTasks, outcome: Claimed) -> bool:
        # Under a limit, after a probe and where something must run alone, the end of a run
        # is what lets the next one start. And who has a say in what starts may be of
        # another mind by then.
        is_particular = self._is_particular() or outcome.alone_waiting
        return self._is_plain(claim) and not (is_particular or self.hungry)

    def _is_plain(self, claim: ClaimTasks) -> bool:
        has_a_say = claim.gate is not None or claim.on_start is not None
        return not (claim.limits or claim.probe or claim.alone or has_a_say)

    def _is_particular(self) -> bool:
        is_alone = self._alone_waiting or self._alone_running
        return is_alone or bool(self._probes_missed or self._breakers.probes())

    def _begin(self, task: ClaimedTask) -> None:
        try:
            self._received(task)
        except Exception:
            # The others of this claim begin all the same; recovery finds this one.
            logger.exception("task %s was claimed and cannot begin", task.state.id)
