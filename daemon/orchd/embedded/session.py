"""One run of an orchestrator: the engine at work on its loop, the user's side at a desk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, cast

from orchd.config.settings import (
    Backoff,
    BreakerSettings,
    RetrySettings,
    Settings,
    WorkerSettings,
)
from orchd.embedded.desks import Desk
from orchd.embedded.lifecycle import SYSTEM
from orchd.embedded.user_code import Results, UserExecutor, UserVerifier
from orchd.engine.engine import Engine
from orchd.interfaces import Task
from orchd.ledger.port import Ledger
from orchd.ledger.task_store import EXECUTOR

if TYPE_CHECKING:
    from orchd.verifiers.port import VerifierPort

NEVER = 10**9
"""A number of failures in a row that is never reached: a `SafetyCheck` decides here."""
LOOK_SECONDS = 0.05
"""How often a session looks whether a pause is over."""


class EmbeddedLedger(Ledger, Protocol):
    """A ledger that keeps what the user's store, hooks or safety check raised."""

    error: BaseException | None


class Supervisor(Protocol):
    """What a session asks of its orchestrator, at the desk unless said otherwise."""

    def starting(self, task: Task) -> None:
        """A task is about to be claimed."""
        ...

    def may_claim(self) -> bool:
        """Tell whether another task may start."""
        ...

    def executed(self) -> None:
        """An execution ended; called on the engine's loop."""
        ...

    def current_executor(self) -> object:
        """Return the executor; called on the engine's loop."""
        ...

    def current_verifier(self) -> object | None:
        """Return the verifier if results are verified; called on the engine's loop."""
        ...

    def is_paused(self) -> bool:
        """Tell whether the run pauses; called on the engine's loop."""
        ...

    def is_held(self) -> bool:
        """Tell whether a claim was refused because of a pause; from the engine's loop."""
        ...


class Session:
    """Runs an engine until nothing is left to do or the run is to end.

    Args:
        ledger: made on the engine's loop, when the session begins there.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        desk: Desk,
        open_ledger: Callable[[Desk], EmbeddedLedger],
        settings: Settings,
        results: Results,
    ) -> None:
        self._supervisor = supervisor
        self._desk = desk
        self._open_ledger = open_ledger
        self._settings = settings
        self._results = results
        self._abort = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def abort(self) -> None:
        """End the run now: stop what runs and give it back. Callable from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._abort.set)

    async def run(self) -> None:
        """Work until the end.

        Raises:
            BaseException: what the user's store, hook or safety check raised.
        """
        self._loop = asyncio.get_running_loop()
        try:
            await self._work(self._open_ledger(self._desk))
        finally:
            self._desk.close()

    async def _work(self, ledger: EmbeddedLedger) -> None:
        engine = self._engine(ledger)
        await ledger.open()
        attendant = asyncio.create_task(self._attend(engine))
        try:
            # A run ends when nothing is pending; what the dead hold is to be that by then.
            await engine.start(recover_first=True)
            await self._until_idle(engine)
        finally:
            attendant.cancel()
            await engine.stop()
            await ledger.close()
        if ledger.error is not None:
            raise ledger.error

    def _engine(self, ledger: Ledger) -> Engine:
        supervisor = self._supervisor
        executor = UserExecutor(
            supervisor.current_executor,
            self._desk,
            SYSTEM,
            self._results,
            supervisor.executed,
        )
        verifier = UserVerifier(
            supervisor.current_verifier, self._desk, SYSTEM, self._results
        )
        # Its `inline` is a property, because the verifier may come and go.
        return Engine(
            ledger=ledger,
            executors={EXECUTOR: executor},
            verifiers={EXECUTOR: cast("VerifierPort", verifier)},
            settings=self._settings,
            system=SYSTEM,
            on_start=supervisor.starting,
            gate=supervisor.may_claim,
        )

    async def _until_idle(self, engine: Engine) -> None:
        idle = asyncio.create_task(engine.wait_until_idle())
        aborted = asyncio.create_task(self._abort.wait())
        try:
            await asyncio.wait((idle, aborted), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (idle, aborted):
                task.cancel()
        with suppress(asyncio.CancelledError):
            await idle

    async def _attend(self, engine: Engine) -> None:
        while True:
            await SYSTEM.sleep(LOOK_SECONDS)
            if self._supervisor.is_held() and not self._supervisor.is_paused():
                engine.wake()


def embedded_settings(database: str, workers: int, lease_seconds: float) -> Settings:
    """Return the settings of an embedded run: retry at once, no breaker, no time limit."""
    return Settings(
        database=database,
        worker=WorkerSettings(
            concurrency=workers, lease_seconds=lease_seconds, kill_grace_seconds=0.0
        ),
        retry=RetrySettings(
            max_crashes=NEVER, backoff=Backoff(initial_seconds=0.0, jitter=False)
        ),
        breaker=BreakerSettings(failures=NEVER),
    )
