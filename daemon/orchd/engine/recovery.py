"""Takes the tasks of dead workers from them and gives them back to the queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from orchd.engine.clock import LedgerClock
from orchd.engine.lease import LeaseKeeper
from orchd.engine.service import Service
from orchd.ledger.port import (
    ActOnTask,
    Ledger,
    LedgerUnavailable,
    Origin,
    Outcome,
    Request,
    WorkerView,
)
from orchd.system import System
from orchd.tasks.commands import Recover
from orchd.tasks.state import TaskState

logger = logging.getLogger(__name__)

BATCH_TASKS_MAX = 200
LOOKS_PER_LEASE = 4
SILENT_LOOKS = 3
"""So many looks, half a lease at least, must have found no renewal by a worker whose lease
has run out by the database's clock. A living worker renews in between, also when that
clock has just jumped, or when all machines have slept."""
VERY_SILENT_LOOKS = 7
"""After so many, one lease and a half, the worker is dead whatever that clock says: it may
have been turned back."""


class Claims(Protocol):
    """What recovery asks of the claimer."""

    begun: int

    @property
    def answered(self) -> int: ...


class Recovery(Service):
    """Looks for workers that are dead; any daemon does it for all of them.

    A worker is dead when nobody else can write to the ledger, when it ran on this machine
    since the last boot and its process is gone, or when its lease has run out, some looks
    in a row found no sign of it, and this worker has itself renewed its own for as long
    without a gap, so that it was no fault of the database. It is fenced first, so that it
    cannot claim any more; then its tasks are released in batches; then its row is removed.

    It also looks for tasks that this worker holds without running them: an error that
    nobody foresaw, between a claim or an end and its commit, must not strand a task.
    """

    name = "recovery"

    def __init__(
        self,
        *,
        ledger: Ledger,
        system: System,
        clock: LedgerClock,
        lease: LeaseKeeper,
        interval_seconds: float,
        lease_seconds: float,
        offer: Callable[[Request], asyncio.Future[Outcome]],
        is_running: Callable[[TaskState], bool],
        claims: Claims,
    ) -> None:
        super().__init__(system, interval_seconds)
        self._ledger = ledger
        self._clock = clock
        self._lease = lease
        self._lease_seconds = lease_seconds
        self._offer = offer
        self._is_running = is_running
        self._claims = claims
        self._signs: dict[str, tuple[int, int]] = {}
        """Worker -> its last renewal, and how many looks in a row have found that one."""
        self._suspects: dict[tuple[str, int | None], int] = {}
        """Tasks and tokens that the last look found held here and not running, with the
        number of the last claim that was under way when a look first found them; 0 when
        all of those have been answered."""
        self._identity = system.identity()

    async def tick(self) -> None:
        """Recover from every worker that is dead."""
        own = self._lease.worker.id
        try:
            census = await self._ledger.census(own, limit=BATCH_TASKS_MAX)
        except LedgerUnavailable:
            # Nobody can renew meanwhile either, so nobody has been silent.
            self._signs = {}
            raise
        self._count_looks(census.workers)
        lost = self._lost_runs(census.held)
        for worker in census.workers:
            if worker.id != self._lease.worker.id and await self._is_fenced(worker):
                await self._release_all(worker)
        if lost:
            await self._release(own, lost, f"worker {own} lost its run")

    def _lost_runs(self, held: Sequence[TaskState]) -> list[TaskState]:
        # A claim on its way is held on disk before it runs here. So a task is suspect until
        # the claims of that time have been answered. It may have run and ended by then, for
        # what was read is old when it is looked at; the next look tells.
        missing = {(s.id, s.token): s for s in held if not self._is_running(s)}
        before, answered = self._suspects, self._claims.answered
        marks = {key: before.get(key, self._claims.begun) for key in missing}
        self._suspects = {k: 0 if m <= answered else m for k, m in marks.items()}
        lost = [state for key, state in missing.items() if before.get(key) == 0]
        for state in lost:
            logger.error("run %d of task %s was lost here; released", state.runs, state.id)
        return lost

    async def _is_fenced(self, worker: WorkerView) -> bool:
        if worker.fenced:
            return True
        if self._is_known_dead(worker):
            return await self._ledger.fence_worker(worker.id, only_if_expired=False)
        expired = worker.expires_at <= self._clock.now()
        looks = self._signs[worker.id][1]
        if looks < (SILENT_LOOKS if expired else VERY_SILENT_LOOKS):
            return False
        if self._lease.held_seconds < self._lease_seconds:
            return False
        return await self._ledger.fence_worker(worker.id, only_if_expired=expired)

    def _count_looks(self, workers: Sequence[WorkerView]) -> None:
        # Looks, not seconds: none is counted while this machine sleeps.
        before, self._signs = self._signs, {}
        for worker in workers:
            renewed_at, looks = before.get(worker.id, (worker.renewed_at, 0))
            looks = looks + 1 if renewed_at == worker.renewed_at else 1
            self._signs[worker.id] = (worker.renewed_at, looks)

    def _is_known_dead(self, worker: WorkerView) -> bool:
        if self._ledger.sole_writer:
            return True
        here = (self._identity.host, self._identity.boot_id)
        if (worker.host, worker.boot_id) != here or not worker.boot_id:
            return False
        started = self._system.process_start(worker.pid)
        return worker.process_start is not None and started != worker.process_start

    async def _release_all(self, worker: WorkerView) -> None:
        released = 0
        while held := await self._ledger.held_by(worker.id, limit=BATCH_TASKS_MAX):
            # A lease of this very process may have been taken away while its runs went on.
            # They still may end well, so they keep their tasks, and the row its place.
            orphans = [state for state in held if not self._is_running(state)]
            if not orphans:
                return
            await self._release(worker.id, orphans, f"worker {worker.id} died")
            released += len(orphans)
        await self._ledger.retire_worker(worker.id)
        logger.info(
            "worker %s on %s is dead; released %d tasks", worker.id, worker.host, released
        )

    async def _release(
        self, worker_id: str, held: Sequence[TaskState], reason: str
    ) -> None:
        origin = Origin(actor="recovery", reason=reason, worker=self._lease.worker.id)
        now = self._clock.now()
        futures = [
            self._offer(
                ActOnTask(
                    task_id=state.id,
                    command=Recover(now=now, worker=worker_id, token=state.token),
                    origin=origin,
                    known=state,
                )
            )
            for state in held
        ]
        await asyncio.gather(*futures)
