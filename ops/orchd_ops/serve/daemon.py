"""The daemon: opens the state, starts the engine and the doors, and ends in order."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from orchd.config.settings import Settings
from orchd.daemons import DaemonDraining, DaemonEvent, DaemonStarted, DaemonStopped
from orchd.engine.engine import Engine
from orchd.engine.observer import Observer
from orchd.engine.run import Stop
from orchd.errors import OrchdError
from orchd.executors.threads import in_thread
from orchd.ledger.port import Ledger, LedgerUnavailable, Origin, RecordDaemon
from orchd.operations import Operations
from orchd.system import System
from orchd_ops.metrics import Metrics
from orchd_ops.serve import doors, memory
from orchd_ops.serve.crew import Crew
from orchd_ops.serve.leaving import leave
from orchd_ops.serve.notify import MICROSECONDS_PER_SECOND, extend_timeout, notify
from orchd_ops.serve.stopping import StopSignals
from orchd_ops.serve.watchdog import Watchdog
from orchd_ops.traces import open_traces

if TYPE_CHECKING:
    from orchd_ops.http.server import HTTPServer
    from orchd_ops.serve.entrance import Entrance

logger = logging.getLogger(__name__)

LAST_WORDS_SECONDS = 0.5
"""How long open connections may take to end when everything else has."""
DOOR_SECONDS = 5.0
"""How often it is looked whether the local socket is still there."""
RETIRE_SECONDS = 1.0
"""How often it is looked whether a replaced executor is still at work."""
STOP_MARGIN_SECONDS = 10.0
LEAVE_SECONDS = 0.8
"""Beyond the drain timeout and the kill grace: when to leave without the database."""
SILENCE_SECONDS = 0.5
"""A commit that has waited for so long by then is not waited for any more."""
LOOK_SECONDS = 0.1


class Phase(Enum):
    """Where a daemon is in its life."""

    STARTING = auto()
    SERVING = auto()
    ENDED = auto()


class Daemon:
    """Everything that runs beside a ledger that is open.

    Args:
        ledger: open, and closed by the caller.
        load: reads the configuration anew.
        signals: tell when to stop.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        settings: Settings,
        system: System,
        load: Callable[[], Settings],
        signals: StopSignals,
        release: str,
    ) -> None:
        self._ledger = ledger
        self._settings = settings
        self._started_with = settings
        self._system = system
        self._load = load
        self._signals = signals
        self._release = release
        self._draining = False
        self._phase = Phase.STARTING
        self._noting: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._reloads: set[asyncio.Task[None]] = set()
        self._crew = Crew(settings, system)
        self._traces = open_traces(release)
        self._metrics = Metrics(
            ledger, system=system, release=release, executors=tuple(settings.executors)
        )
        observers: list[Observer] = [self._metrics]
        if self._traces is not None:
            observers.append(self._traces)
        self._engine = Engine(
            ledger=ledger,
            executors=self._crew.executors,
            verifiers=self._crew.verifiers,
            settings=settings,
            system=system,
            observers=observers,
            release=release,
        )
        self._metrics.set_slots(lambda: (self._engine.running, self._engine.slots))
        self._operations = Operations(
            ledger=ledger, commit=self._engine.requests, settings=settings, system=system
        )
        self._local = doors.LocalDoor(settings.database, os.environ)
        self._servers: list[HTTPServer] = []
        self._entrance: Entrance | None = None
        self._is_ready = False
        self._recording: asyncio.Task[None] | None = None
        self._watchdog = Watchdog(ledger, system, self._status)

    # --- life ---------------------------------------------------------------------------

    async def run(self, *, until_idle: bool) -> None:
        """Serve until a signal, or with `until_idle` until nothing can go on.

        Raises:
            OrchdError: the daemon cannot start.
            LedgerUnavailable: the database went away before it had started.
        """
        memory.leave_without()
        leaving = [asyncio.create_task(each) for each in self._deadlines()]
        try:
            await self._start()
            self._phase = Phase.SERVING
            await self._until_asked(until_idle=until_idle)
        finally:
            await self._stop()
            self._phase = Phase.ENDED
            if not self._signals.drain.is_set():
                for task in leaving:
                    task.cancel()
        if until_idle:
            how = "stopped" if self._signals.drain.is_set() else "idle"
            endings = self._metrics.endings().items()
            _print(f"{how}: {', '.join(f'{name} {count}' for name, count in endings)}")

    async def _start(self) -> None:
        token = doors.token_of(self._settings, os.environ, self._system)
        address = doors.address_of(self._settings)
        listener = doors.open_tcp(self._settings)
        local = self._local.open()
        hosts = self._settings.server.allowed_hosts
        await self._engine.start()
        self._recording = asyncio.create_task(self._record_start())
        # Who connects meanwhile waits until it is served.
        if not await self._done_unless_stopped(in_thread(self._open_entrance, "entrance")):
            return
        assert self._entrance is not None
        self._servers.append(
            self._entrance.outside(listener, host=address.host, token=token, allowed=hosts)
        )
        if local is not None:
            self._servers.append(self._entrance.local(local))
        await self._recording
        for server in self._servers:
            await server.start()
        self._watchdog.start()
        self._keeping = asyncio.create_task(self._keep_local_door())
        memory.settle()
        _print(f"listening on {address.url(self._servers[0].port)}")
        self._is_ready = True
        notify("READY=1", f"STATUS={self._status()}")

    async def _done_unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Wait for a part of the start; False when a signal ends the daemon before."""
        doing = asyncio.create_task(work)
        asked = asyncio.create_task(self._signals.drain.wait())
        await asyncio.wait((doing, asked), return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if doing.done():
            doing.result()
        return doing.done()

    async def _keep_local_door(self) -> None:
        while True:
            await self._system.sleep(DOOR_SECONDS)
            listener = self._local.open_again()
            if listener is not None and self._entrance is not None:
                # The one before may still be at work for who had connected to it.
                server = self._entrance.local(listener)
                self._servers.append(server)
                await server.start()

    def _open_entrance(self) -> None:
        from orchd_ops.serve.entrance import Entrance

        self._entrance = Entrance(
            self._operations, metrics=self._metrics.render, health=self._health
        )

    async def _record_start(self) -> None:
        identity = self._system.identity()
        await self._record(
            DaemonStarted(
                host=identity.host,
                pid=identity.pid,
                release=self._release,
                executors=self._engine.executor_names,
            )
        )

    async def _until_asked(self, *, until_idle: bool) -> None:
        asked = asyncio.create_task(self._signals.drain.wait())
        waiting: set[asyncio.Task[object]] = {asked}
        if until_idle:
            waiting.add(asyncio.create_task(self._engine.wait_until_idle()))
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in waiting:
                task.cancel()

    async def _stop(self) -> None:
        worker = self._settings.worker
        limit_seconds = worker.drain_timeout_seconds + worker.kill_grace_seconds
        self._draining = True
        notify("STOPPING=1", "STATUS=draining")
        extend_timeout(limit_seconds + STOP_MARGIN_SECONDS)
        await self._drain(worker.drain_timeout_seconds)
        await self._record(DaemonStopped())
        await self._operations.close()
        await self._close_doors()
        await self._watchdog.stop()
        await self._engine.stop()
        for task in self._retiring:
            task.cancel()
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)

    def _deadlines(self) -> list[Coroutine[Any, Any, None]]:
        worker = self._settings.worker
        drained = worker.drain_timeout_seconds + worker.kill_grace_seconds
        return [
            self._leave_after(self._signals.drain, drained + LEAVE_SECONDS),
            self._leave_after(self._signals.at_once, LEAVE_SECONDS),
        ]

    async def _leave_after(self, asked: asyncio.Event, seconds: float) -> None:
        """End the process this long after a signal, if only the database keeps it.

        As long as the database answers, stopping goes on in order.
        """
        await asked.wait()
        await self._system.sleep(seconds)
        while (
            self._phase is Phase.SERVING
            and self._engine.unanswered_seconds < SILENCE_SECONDS
        ):
            await self._system.sleep(LOOK_SECONDS)
        logger.error(
            "left without the database, which does not answer; %d runs are not on record "
            "as ended, and the next daemon does them again",
            self._engine.running,
        )
        leave(0)

    async def _drain(self, timeout_seconds: float) -> None:
        if self._engine.running:
            logger.info(
                "runs that may end within %g s: %d", timeout_seconds, self._engine.running
            )
            # Not waited for: a database that is away must not take from the time to drain.
            draining_event = DaemonDraining(running=self._engine.running)
            self._noting = asyncio.create_task(self._record(draining_event))
        draining = asyncio.create_task(self._engine.drain(timeout_seconds))
        hurry = asyncio.create_task(self._signals.at_once.wait())
        await asyncio.wait((draining, hurry), return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            await self._stop_at_once()
        hurry.cancel()
        await draining

    async def _stop_at_once(self) -> None:
        for run in self._engine.runs():
            self._engine.stop_run(run, Stop.DRAIN)
        await self._system.sleep(0.05)
        for run in self._engine.runs():
            # The second cancellation of a run shortens its kill grace to nothing.
            if not run.ended and run.task is not None:
                run.task.cancel()

    async def _close_doors(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
        self._local.remove()
        stopping = [asyncio.create_task(server.stop()) for server in self._servers]
        if stopping:
            await asyncio.wait(stopping, timeout=LAST_WORDS_SECONDS)

    # --- what others ask ------------------------------------------------------------------

    def _status(self) -> str:
        verb = "draining" if self._draining else "serving"
        return f"{verb}, {self._engine.running} of {self._engine.slots} runs at work"

    async def _health(self) -> list[str]:
        problems = []
        if self._draining:
            problems.append("the daemon is draining")
        if not self._engine.healthy:
            reason = self._engine.trouble or "no answer, or the lease is lost"
            problems.append(f"the database does not answer: {reason}")
        return problems

    async def _record(self, event: DaemonEvent) -> None:
        worker = self._engine.worker_id
        request = RecordDaemon(
            worker=worker,
            event=event,
            now=self._engine.clock.now(),
            origin=Origin(actor="daemon", worker=worker),
        )
        with suppress(LedgerUnavailable):
            await self._engine.request(request)

    # --- reloading --------------------------------------------------------------------

    def reload(self) -> None:
        """Read the configuration anew and go on with it; a bad one changes nothing."""
        task = asyncio.create_task(self._reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        if self._is_ready:
            monotonic = round(self._system.monotonic() * MICROSECONDS_PER_SECOND)
            notify("RELOADING=1", f"MONOTONIC_USEC={monotonic}")
        try:
            settings = self._load()
            crew = Crew(settings, self._system, self._crew)
            old, self._crew = self._crew, crew
            await self._engine.swap_settings(settings, crew.executors, crew.verifiers)
            self._operations.swap_settings(settings)
            self._note_unchangeable(self._started_with, settings)
            self._settings = settings
            self._retire(old)
            logger.info("the configuration was read anew")
        except (OrchdError, LedgerUnavailable) as error:
            logger.error("the configuration stays as it was: %s", error)
        if self._is_ready:
            notify("READY=1", f"STATUS={self._status()}")

    def _note_unchangeable(self, old: Settings, new: Settings) -> None:
        for key, before, after in (
            ("database", old.database, new.database),
            ("server", old.server, new.server),
            ("worker.lease", old.worker.lease_seconds, new.worker.lease_seconds),
        ):
            if before != after:
                logger.warning(
                    "%s is not what it was at the start; that takes a restart", key
                )

    def _retire(self, old: Crew) -> None:
        task = asyncio.create_task(self._close_replaced(old))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _close_replaced(self, old: Crew) -> None:
        """Close what was replaced as soon as no run works with it any more."""
        keys = {run.key for run in self._engine.runs()}
        while keys & {run.key for run in self._engine.runs()}:
            await self._system.sleep(RETIRE_SECONDS)
        for member in old.replaced_by(self._crew):
            await member.close()


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    with suppress(BrokenPipeError):
        sys.stdout.flush()
