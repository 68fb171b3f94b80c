"""The engine: everything that runs while a daemon, or an embedded run, is at work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from orchd.config.settings import Settings
from orchd.engine.breakers import BreakerWatch
from orchd.engine.claims import Claimer
from orchd.engine.clock import LedgerClock
from orchd.engine.committer import Committer, Reply
from orchd.engine.deadlines import Deadlines
from orchd.engine.lease import LeaseKeeper
from orchd.engine.listening import Listener
from orchd.engine.news import Newsroom
from orchd.engine.observer import Observer
from orchd.engine.recovery import LOOKS_PER_LEASE, Recovery
from orchd.engine.run import Run, Stop
from orchd.engine.runner import Runner
from orchd.engine.watch import LedgerWatch
from orchd.executors.port import ExecutorPort
from orchd.interfaces import Task
from orchd.ledger.port import (
    ClaimedTask,
    Ledger,
    LedgerUnavailable,
    Outcome,
    Request,
    SubmitTask,
    WorkerView,
)
from orchd.queues import serves
from orchd.system import System
from orchd.tasks.state import Phase
from orchd.verifiers.port import VerifierPort

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 5.0
"""How long a caller waits for the ledger before it is told that it is unavailable."""
LEFT_BEHIND_SECONDS = 0.7
"""Beyond the kill grace: how long a stopped body may take to let go."""
DRAIN_SECONDS = 1.0
"""Beyond the kill grace: how long a drain waits until what was left behind is on disk."""
WATCH_SECONDS = 1.0
"""Longest time between two looks at what other processes changed."""


class Engine:
    """Claims, executes and verifies tasks on one ledger until it is stopped.

    Args:
        ledger: opened by the caller, who also closes it.
        executors, verifiers: by name; the engine closes them when it stops.
        settings: swapped as a whole by `swap_settings`.
        observers: told of everything this process commits.
        on_start: see `ClaimTasks.on_start`; for task stores.
        gate: asked before each claim; False lets nothing start until the next wake.
        leases: False for a ledger that no other process can see.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        executors: Mapping[str, ExecutorPort],
        verifiers: Mapping[str, VerifierPort],
        settings: Settings,
        system: System,
        observers: Sequence[Observer] = (),
        release: str = "",
        on_start: Callable[[Task], None] | None = None,
        gate: Callable[[], bool] | None = None,
    ) -> None:
        self.ledger = ledger
        self.settings = settings
        self.system = system
        self.clock = LedgerClock(ledger, system)
        self.deadlines = Deadlines(system)
        self.newsroom = Newsroom((Listener(self), *observers))
        self._executors = dict(executors)
        self._verifiers = dict(verifiers)
        self._runs: dict[tuple[str, int], Run] = {}
        self._quiet = asyncio.Event()
        self._gives_back = False
        self.committer = Committer(ledger, system, self.newsroom, lambda: self.slots)
        self.lease = LeaseKeeper(
            ledger=ledger,
            system=system,
            clock=self.clock,
            worker=self._new_worker(release),
            lease_seconds=settings.worker.lease_seconds,
            on_fenced=self._on_fenced,
            on_expired=self._on_lease_expired,
            on_regained=self.wake,
        )
        self.breakers = BreakerWatch(
            ledger=ledger,
            clock=self.clock,
            settings=lambda: self.settings,
            worker_id=lambda: self.worker_id,
            offer=self.offer,
        )
        self._claimer = Claimer(
            settings=lambda: self.settings,
            clock=self.clock,
            breakers=self.breakers,
            worker_id=lambda: self.worker_id,
            running=lambda: len(self._runs),
            capabilities=self._capabilities,
            received=self._begin,
            settled=self._claim_settled,
            on_start=on_start,
            gate=gate,
        )
        self.committer.set_claim_source(self._claimer.claims)
        self._runner = Runner(self)
        self._recovery = Recovery(
            ledger=ledger,
            system=system,
            clock=self.clock,
            lease=self.lease,
            interval_seconds=settings.worker.lease_seconds / LOOKS_PER_LEASE,
            lease_seconds=settings.worker.lease_seconds,
            offer=self.offer,
            is_running=lambda state: (state.id, state.token or 0) in self._runs,
            claims=self._claimer,
        )
        self._watch = LedgerWatch(self, interval_seconds=WATCH_SECONDS)

    def _new_worker(self, release: str) -> WorkerView:
        identity = self.system.identity()
        return WorkerView(
            id=self.system.new_id(),
            host=identity.host,
            boot_id=identity.boot_id,
            pid=identity.pid,
            process_start=identity.start,
            executors=tuple(self._executors),
            verifiers=tuple(self._verifiers),
            release=release,
            started_at=0,
            renewed_at=0,
            expires_at=0,
            fenced=False,
        )

    # --- state that others may look at ------------------------------------------------

    @property
    def worker_id(self) -> str:
        """The id of this daemon start, or of the start after its last lost lease."""
        return self.lease.worker.id

    @property
    def running(self) -> int:
        """How many runs are at work."""
        return len(self._runs)

    @property
    def slots(self) -> int:
        """How many runs may be at work at once."""
        return self.settings.worker.concurrency

    @property
    def healthy(self) -> bool:
        """Whether the ledger answers and the lease is held."""
        return self.committer.unavailable_since is None and self.lease.is_current

    @property
    def trouble(self) -> str | None:
        """What the ledger says instead of an answer; None when it answers."""
        return self.committer.trouble or self.lease.trouble

    @property
    def unanswered_seconds(self) -> float:
        """For how long the ledger has not answered the commit that is on its way."""
        return self.committer.waiting_seconds

    @property
    def executor_names(self) -> tuple[str, ...]:
        """What this worker can execute."""
        return tuple(self._executors)

    @property
    def verifier_names(self) -> tuple[str, ...]:
        """What this worker can verify with."""
        return tuple(self._verifiers)

    def verifier(self, name: str) -> VerifierPort | None:
        """Return the verifier of that name, if this worker has it."""
        return self._verifiers.get(name)

    def runs(self) -> list[Run]:
        """Return the runs at work."""
        return list(self._runs.values())

    # --- lifecycle --------------------------------------------------------------------

    async def start(self, *, claim: bool = True, recover_first: bool = False) -> None:
        """Take the lease, recover what dead predecessors left, and begin to work.

        Args:
            claim: whether to let tasks start.
            recover_first: whether to claim nothing before the first look for the dead has
                given back what they held. There may be much of it, so by default work
                begins meanwhile.

        Raises:
            LedgerUnavailable: the lease could not be taken, or the dead not be looked for.
        """
        await self.lease.register()
        self.committer.start()
        self.lease.start()
        if recover_first:
            await self._recovery.tick()
        self._recovery.start()
        self._watch.start()
        self._claimer.enabled = claim
        self.wake()

    async def drain(self, timeout_seconds: float) -> None:
        """Claim nothing more, let runs end, then stop the rest and return them uncharged.

        Returns at most `timeout_seconds`, the kill grace and one second later.
        """
        self.pause_claims()
        await self._until_quiet(timeout_seconds)
        # A claim may still be on its way, so what begins from here on is stopped too.
        self._gives_back = True
        for run in self.runs():
            self.stop_run(run, Stop.DRAIN)
        grace = self.settings.worker.kill_grace_seconds + DRAIN_SECONDS
        await self._until_quiet(grace)

    async def stop(self, timeout_seconds: float = 0.0) -> None:
        """Drain, give the lease back and end everything. Idempotent."""
        await self.drain(timeout_seconds)
        self.deadlines.close()
        await self._watch.stop()
        await self._recovery.stop()
        await self.lease.stop()
        await self._retire()
        await self.committer.stop()
        for executor in self._executors.values():
            await executor.close()
        for verifier in self._verifiers.values():
            await verifier.close()

    async def _retire(self) -> None:
        # The row of a worker that may yet hold a task is what that task is found by.
        if self._runs or self._claimer.busy:
            return
        with suppress(LedgerUnavailable):
            await self.ledger.retire_worker(self.worker_id)

    async def _until_quiet(self, timeout_seconds: float) -> bool:
        deadline = self.system.monotonic() + timeout_seconds
        while self._runs or self._claimer.busy:
            left = deadline - self.system.monotonic()
            if left <= 0:
                return False
            self._quiet.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, WATCH_SECONDS)):
                    await self._quiet.wait()
        return True

    async def wait_until_idle(self) -> None:
        """Wait until nothing can go on without a person, here or on any other worker."""
        while True:
            wakes = self._claimer.wakes
            await self._until_quiet(float("inf"))
            idle = self.committer.idle and not self._claimer.hungry
            if idle and wakes == self._claimer.wakes and not await self._has_work():
                return
            await self.system.sleep(0.02 if not idle else 0.1)

    async def _has_work(self) -> bool:
        try:
            return await self.ledger.has_work(
                self.executor_names, self.verifier_names, self.settings.worker.queues
            )
        except LedgerUnavailable:
            return True

    # --- requests ---------------------------------------------------------------------

    def offer(self, request: Request) -> asyncio.Future[Outcome]:
        """Queue a request; the future resolves when its outcome is durable."""
        return self.committer.offer(request)

    def report(self, request: Request, reply: Reply, *, ends_run: bool) -> None:
        """Queue a request whose outcome is told to `reply`."""
        self.committer.report(request, reply, ends_run=ends_run)

    async def request(self, request: Request) -> Outcome:
        """Carry out one request; see `requests`."""
        return (await self.requests((request,)))[0]

    async def requests(self, requests: Sequence[Request]) -> list[Outcome]:
        """Carry out requests in one commit; the outcomes are durable when this returns.

        Raises:
            LedgerUnavailable: there was no answer within `PATIENCE_SECONDS`. The requests
                stay queued, so they may still be carried out; repeating them is safe.
                Where others have waited for so long already, none are queued any more.
        """
        if not requests:
            return []
        if self.unanswered_seconds > PATIENCE_SECONDS:
            raise self._no_answer(self.unanswered_seconds)
        if any(self._may_start(request) for request in requests):
            # A claim sees the commit that it travels in, so what is submitted to a worker
            # with free slots starts with the commit that makes it durable.
            self._claimer.wake()
        futures = self.committer.offer_together(requests)
        try:
            # It neither cancels what it waits for nor minds which of them fail.
            _, late = await asyncio.wait(futures, timeout=PATIENCE_SECONDS)
        except asyncio.CancelledError:
            _forget(futures)
            raise
        if late:
            _forget(futures)
            raise self._no_answer(PATIENCE_SECONDS)
        return [future.result() for future in futures]

    def _may_start(self, request: Request) -> bool:
        if not isinstance(request, SubmitTask):
            return False
        task = request.command.submitted
        return task.run_at is None and self.may_run(task.executor, task.queue)

    def may_run(self, executor: str, queue: str) -> bool:
        """Tell whether this worker executes tasks of that executor and queue."""
        return executor in self._executors and serves(self.settings.worker.queues, queue)

    def _no_answer(self, seconds: float) -> LedgerUnavailable:
        reason = f": {self.trouble}" if self.trouble else ""
        return LedgerUnavailable(
            f"the database has not answered for {seconds:.0f} seconds{reason}"
        )

    def wake(self) -> None:
        """Claim soon: something may be ready."""
        self._claimer.wake()
        self.committer.wake()

    def note_due(self, due: int) -> None:
        """Claim as soon as a timer of this instant is due."""
        self._watch.note_due(due)

    def pause_claims(self) -> None:
        """Let nothing more start here."""
        self._claimer.enabled = False

    def resume_claims(self) -> None:
        """Let tasks start again."""
        self._gives_back = False
        self._claimer.enabled = True
        self.wake()

    async def swap_settings(
        self,
        settings: Settings,
        executors: Mapping[str, ExecutorPort],
        verifiers: Mapping[str, VerifierPort],
    ) -> None:
        """Go on with other settings; runs at work keep what they started with."""
        self.settings = settings
        self._executors, self._verifiers = dict(executors), dict(verifiers)
        await self.lease.advertise(self.executor_names, self.verifier_names)
        self.wake()

    # --- runs -------------------------------------------------------------------------

    def _capabilities(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        # What must stop when the lease has run out must not start after that either.
        current = self.lease.is_current
        executors = [n for n, e in self._executors.items() if current or not e.exclusive]
        return tuple(executors), tuple(self._verifiers)

    def _begin(self, claimed: ClaimedTask) -> None:
        state = claimed.state
        executor = self._executors.get(state.executor)
        run = Run(claimed, executor, self.newsroom.traceparent(state))
        self._runs[run.key] = run
        run.task = asyncio.get_running_loop().create_task(self._work(run))
        if self._gives_back:
            self.stop_run(run, Stop.DRAIN)

    def _needs_lease(self, run: Run) -> bool:
        executes = run.state.phase is Phase.EXECUTE
        return executes and run.executor is not None and run.executor.exclusive

    def _holds(self, run: Run) -> bool:
        # A claim may be answered when the worker that made it has been fenced, and this
        # process goes on as another one.
        return self.lease.is_current and run.state.worker == self.worker_id

    def _claim_settled(self) -> None:
        self._quiet.set()
        if self._claimer.hungry:
            # No run has to end, and no request to come, for the next claim to be made.
            self.committer.wake()

    async def _work(self, run: Run) -> None:
        # Looked at here and not when the claim is answered: the machine may have slept in
        # between, and nothing lies between this and the body.
        if self._needs_lease(run) and not self._holds(run):
            self.stop_run(run, Stop.LEASE)
        run.started = True
        try:
            await self._runner.run(run)
        except Exception:
            logger.exception("run %d of task %s broke", run.context.run, run.state.id)
            await self._runner.leave_behind(run)
        finally:
            self._finish(run)

    def _finish(self, run: Run) -> None:
        if run.pending_reports:
            # The body has let go after all, or it was left behind as it did so. The other
            # of the two reports the end, and comes here when the log has it.
            return
        self.release(run)

    def release(self, run: Run) -> None:
        """Give the slot of a run to the next: its end is on disk, or its task is lost.

        Idempotent.
        """
        if self._runs.pop(run.key, None) is not None:
            self._quiet.set()
            self._claimer.run_ended()
            self.committer.wake()

    def stop_run(self, run: Run, reason: Stop) -> None:
        """Stop a run, and leave its body behind if it does not let go in time."""
        if run.stop(reason):
            grace = self.settings.worker.kill_grace_seconds + LEFT_BEHIND_SECONDS
            stops, loop = run.stops, asyncio.get_running_loop()
            # By the loop's clock, as the grace itself: both stand still while the machine
            # sleeps, and no body is left behind whose processes are yet to be killed.
            loop.call_later(
                grace, lambda: asyncio.create_task(self._leave_behind(run, stops))
            )

    async def _leave_behind(self, run: Run, stop: int) -> None:
        if run.stops != stop or run.stop_reason is None or run.key not in self._runs:
            return
        if run.ended or not run.in_body:
            # The body has let go; the run itself reports what came of it. This is asked in
            # the step that takes the run over, or it might still let go in between.
            return
        reason = run.stop_reason
        logger.error("task %s does not react to being stopped (%s)", run.state.id, reason)
        try:
            await self._runner.leave_behind(run)
        finally:
            self._finish(run)

    def stop_task(self, task_id: str) -> None:
        """Stop whatever run of that task is at work here: it was cancelled."""
        for run in self.runs():
            if run.context.task_id == task_id:
                self.stop_run(run, Stop.CANCEL)

    def _on_fenced(self, worker_id: str) -> None:
        self.newsroom.lease_lost(worker_id)
        self._on_lease_expired()

    def _on_lease_expired(self) -> None:
        for run in self.runs():
            if self._needs_lease(run):
                self.stop_run(run, Stop.LEASE)


def _forget(futures: Sequence[asyncio.Future[Outcome]]) -> None:
    # Nobody waits for these requests any more; the loop would complain of each that fails.
    for future in futures:
        future.add_done_callback(_retrieve)


def _retrieve(future: asyncio.Future[Outcome]) -> None:
    if not future.cancelled():
        future.exception()
