"""Takes the tasks of dead workers from them and gives them back to the queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from orchd import system as machine
from orchd.engine.clock import LedgerClock
from orchd.engine.lease import LeaseKeeper
from orchd.engine.service import Service
from orchd.ledger.port import ActOnTask, Ledger, Origin, Outcome, Request, WorkerView
from orchd.system import System
from orchd.tasks.commands import Recover
from orchd.tasks.state import TaskState

logger = logging.getLogger(__name__)

BATCH_TASKS_MAX = 200


class Recovery(Service):
    """Looks for workers that are dead; any daemon does it for all of them.

    A worker is dead when nobody else can write to the ledger, when it ran on this machine
    since the last boot and its process is gone, or when its lease has run out and this
    worker has itself held a lease for as long. It is fenced first, so that it cannot
    claim any more; then its tasks are released in batches; then its row is removed.

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
        is_claiming: Callable[[], bool],
    ) -> None:
        super().__init__(system, interval_seconds)
        self._ledger = ledger
        self._clock = clock
        self._lease = lease
        self._lease_seconds = lease_seconds
        self._offer = offer
        self._is_running = is_running
        self._is_claiming = is_claiming
        self._suspects: frozenset[tuple[str, int | None]] = frozenset()
        """Tasks and tokens that the last look found held here and not running."""
        self._host, self._boot = machine.host_name(), machine.boot_id()

    async def tick(self) -> None:
        """Recover from every worker that is dead."""
        for worker in await self._ledger.workers():
            if worker.id != self._lease.worker.id and await self._is_fenced(worker):
                await self._release_all(worker)
        await self._release_lost_runs()

    async def _release_lost_runs(self) -> None:
        own = self._lease.worker.id
        held = await self._ledger.held_by(own, limit=BATCH_TASKS_MAX)
        # A claim on its way is held on disk before it runs here; hence two looks.
        lost = [] if self._is_claiming() else [s for s in held if not self._is_running(s)]
        confirmed = [state for state in lost if (state.id, state.token) in self._suspects]
        self._suspects = frozenset((state.id, state.token) for state in lost)
        for state in confirmed:
            logger.error("run %d of task %s was lost here; released", state.runs, state.id)
        if confirmed:
            await self._release(own, confirmed, f"worker {own} lost its run")

    async def _is_fenced(self, worker: WorkerView) -> bool:
        if worker.fenced:
            return True
        if self._is_known_dead(worker):
            return await self._ledger.fence_worker(worker.id, only_if_expired=False)
        if worker.expires_at > self._clock.now():
            return False
        if self._lease.held_seconds < self._lease_seconds:
            return False
        return await self._ledger.fence_worker(worker.id, only_if_expired=True)

    def _is_known_dead(self, worker: WorkerView) -> bool:
        if self._ledger.sole_writer:
            return True
        if (worker.host, worker.boot_id) != (self._host, self._boot) or not self._boot:
            return False
        started = machine.process_start(worker.pid)
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
