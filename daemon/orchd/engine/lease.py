"""This worker's lease: one row that says it is alive, however many tasks it runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from orchd.engine.clock import LedgerClock
from orchd.engine.service import Service
from orchd.ledger.port import Ledger, WorkerView
from orchd.system import MICROSECONDS_PER_SECOND, System

logger = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 3
RETRIES_PER_LEASE = 24
"""A renewal that failed is repeated so often. At the pace of renewals, two short outages
would be enough to lose a lease, if each fell on one."""
LEASES_PER_GAP = 1 / 2
"""Renewals further apart than this part of a lease leave a gap. Whoever is about to renew
when nothing can be written any more has two thirds of its lease left, and loses it after
that; by then this worker has a gap itself."""
REGISTRATION_SECONDS = 1.0
"""How long a stop waits for the row of a lease that is being taken."""


class LeaseKeeper(Service):
    """Renews the lease, and starts over under a new name when it was taken away.

    Losing the database fences nobody: the runs go on and their results are offered with
    their own tokens. `on_expired` is called when the lease has run out by this machine's
    clock, `on_fenced` when the database says that the worker was declared dead, and
    `on_regained` when it may claim again after that.
    """

    name = "lease"

    def __init__(
        self,
        *,
        ledger: Ledger,
        system: System,
        clock: LedgerClock,
        worker: WorkerView,
        lease_seconds: float,
        on_fenced: Callable[[str], None],
        on_expired: Callable[[], None],
        on_regained: Callable[[], None],
    ) -> None:
        super().__init__(
            system,
            lease_seconds / RENEWALS_PER_LEASE,
            retry_seconds=lease_seconds / RETRIES_PER_LEASE,
        )
        self._ledger = ledger
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._on_fenced = on_fenced
        self._on_expired = on_expired
        self._on_regained = on_regained
        self._renewed = system.monotonic()
        self._held_since = self._renewed
        self._alarm: asyncio.TimerHandle | None = None
        self._registration: asyncio.Task[None] | None = None
        self.worker = worker

    @property
    def held_seconds(self) -> float:
        """For how long the lease has been renewed without a gap; 0 in a gap.

        As long as there was none, the database took writes, from others as well.
        """
        now = self._system.monotonic()
        return 0.0 if self._is_gap(now) else now - self._held_since

    def _is_gap(self, now: float) -> bool:
        return now - self._renewed > self._lease_seconds * LEASES_PER_GAP

    @property
    def is_current(self) -> bool:
        """Whether the lease has not run out by this machine's clock."""
        return self._system.monotonic() - self._renewed < self._lease_seconds

    async def register(self) -> None:
        """Take the lease for the first time.

        Raises:
            LedgerUnavailable: the row could not be written.
        """
        await self._clock.synchronise()
        asked = self._system.monotonic()
        await self._ledger.register_worker(self._dated(self.worker), self._lease_seconds)
        self._held_since = self._system.monotonic()
        self._note_renewed(asked)

    async def stop(self) -> None:
        """Stop renewing; idempotent."""
        await super().stop()
        if self._registration is not None:
            # Written later, its row would outlive a daemon that had given back its lease.
            await asyncio.wait((self._registration,), timeout=REGISTRATION_SECONDS)
            self._registration.cancel()
        self._drop_alarm()

    async def advertise(
        self, executors: tuple[str, ...], verifiers: tuple[str, ...]
    ) -> None:
        """Tell the other daemons anew what this worker can do."""
        self.worker = msgspec.structs.replace(
            self.worker, executors=executors, verifiers=verifiers
        )
        # Never a registration: the row of a worker that was fenced may be gone already,
        # and must not come back as one that may claim.
        await self._ledger.advertise_worker(self.worker.id, executors, verifiers)

    async def tick(self) -> None:
        """Renew the lease."""
        if not self.is_current:
            self._expired()
        asked = self._system.monotonic()
        if not await self._ledger.renew_worker(self.worker.id, self._lease_seconds):
            await self._start_over()
            return
        answered, regained = self._system.monotonic(), not self.is_current
        if self._is_gap(answered):
            self._held_since = answered
        # Counted from before the question: the database may have answered late.
        self._note_renewed(asked)
        if regained:
            self._on_regained()

    def _note_renewed(self, asked: float) -> None:
        self._renewed = asked
        self._set_alarm()

    def _set_alarm(self) -> None:
        # A renewal may hang for longer than the lease, so the end of the lease is not
        # left to be found by the next one.
        self._drop_alarm()
        left = self._renewed + self._lease_seconds - self._system.monotonic()
        loop = asyncio.get_running_loop()
        self._alarm = loop.call_later(max(0.0, left), self._expired)

    def _drop_alarm(self) -> None:
        alarm, self._alarm = self._alarm, None
        if alarm is not None:
            alarm.cancel()

    def _expired(self) -> None:
        self._drop_alarm()
        if self.is_current:
            self._set_alarm()
        else:
            self._on_expired()

    async def _start_over(self) -> None:
        lost = self.worker.id
        logger.warning("worker %s lost its lease and starts over under a new id", lost)
        self._on_fenced(lost)
        self.worker = msgspec.structs.replace(self.worker, id=self._system.new_id())
        self._registration = asyncio.create_task(self.register())
        await asyncio.shield(self._registration)
        self._on_regained()

    def _dated(self, worker: WorkerView) -> WorkerView:
        now = self._clock.now()
        lease = round(self._lease_seconds * MICROSECONDS_PER_SECOND)
        return msgspec.structs.replace(
            worker, started_at=now, renewed_at=now, expires_at=now + lease
        )
