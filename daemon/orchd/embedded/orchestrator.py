"""The orchestrator as a library: `Orchestrator(store, executor, …).run()`."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchd.embedded.desks import CallerDesk, Desk, LoopDesk, LoopThread
from orchd.embedded.lifecycle import (
    ACTIVE,
    SYSTEM,
    OrchestratorConfig,
    OrchestratorState,
    OrchestratorStats,
    now_seconds,
)
from orchd.embedded.session import EmbeddedLedger, Session, embedded_settings
from orchd.embedded.user_code import Results
from orchd.interfaces import (
    ExecutionResult,
    Executor,
    SafetyCheck,
    Task,
    TaskStore,
    Verifier,
)
from orchd.ledger.task_store import Memory, TaskStoreLedger
from orchd.tasks.state import TaskState

Hook = Callable[["Orchestrator", Task | None, ExecutionResult | None], None]
"""Called with the orchestrator, the task and, on completion, the result."""

EVENTS = (
    "on_task_start",
    "on_task_complete",
    "on_task_fail",
    "on_task_retry",
    "on_run_start",
    "on_run_end",
)
NO_LEASE_SECONDS = 86_400.0
"""The lease in a ledger that nobody else can see."""


class Orchestrator:
    """Works through the tasks of a store: executes, verifies, retries with feedback.

    `run()` blocks; the store, the hooks, the safety check and (with one worker) the
    executor and the verifier are called on the calling thread. `run_async()` awaits the
    same, with the store and the hooks on the caller's event loop. `execute` and `verify`
    may be coroutine functions, and a parameter named `context` receives the
    `RunContext`. What an executor raises is a failure of its task; what the store or
    the safety check raises ends the run.
    """

    def __init__(
        self,
        task_store: TaskStore,
        executor: Executor,
        verifier: Verifier | None = None,
        safety: SafetyCheck | None = None,
        config: OrchestratorConfig | None = None,
    ) -> None:
        self.task_store = task_store
        self.executor = executor
        self.verifier = verifier
        self.safety = safety
        self.config = config or OrchestratorConfig()
        self.state = OrchestratorState.IDLE
        self.stats = OrchestratorStats()
        self._hooks: dict[str, list[Hook]] = {event: [] for event in EVENTS}
        self._workers = 1
        self._turnstile = threading.Lock()
        self._results: Results = {}
        self._memory: Memory = {}
        self._remembered: TaskStore | None = None
        self._ended_runs = 0
        self._supervision = Supervision(self)

    # --- lifecycle --------------------------------------------------------------------

    def run(self) -> OrchestratorStats:
        """Work until no task is pending, the safety check objects, or `stop()`.

        Works whether or not an event loop runs in the calling thread, and can be called
        again.

        Raises:
            RuntimeError: this orchestrator is running already.
            Exception: what the store or the safety check raised; `state` is then ERROR.
        """
        with self._one_run():
            self._run_here()
        return self.stats

    async def run_async(self) -> OrchestratorStats:
        """Do as `run()` does, while the calling event loop goes on."""
        with self._one_run():
            await self._run_there()
        return self.stats

    def pause(self) -> None:
        """Let no further task start until `resume()`."""
        if self.state is OrchestratorState.RUNNING:
            self.state = OrchestratorState.PAUSED

    def resume(self) -> None:
        """Go on after `pause()`."""
        if self.state is OrchestratorState.PAUSED:
            self.state = OrchestratorState.RUNNING

    def stop(self) -> None:
        """End the run after the tasks that are at work."""
        self.state = OrchestratorState.STOPPED

    def add_hook(self, event: str, hook: Hook) -> None:
        """Call `hook` at an event of the life cycle; unknown events are ignored."""
        if event in self._hooks:
            self._hooks[event].append(hook)

    # --- a run ------------------------------------------------------------------------

    @contextmanager
    def _one_run(self) -> Iterator[None]:
        if not self._turnstile.acquire(blocking=False):
            raise RuntimeError("this orchestrator is running already")
        try:
            self._begin()
            try:
                yield
            except Exception:
                self.state = OrchestratorState.ERROR
                raise
            finally:
                self._end()
        finally:
            self._turnstile.release()

    def _begin(self) -> None:
        self.state = OrchestratorState.RUNNING
        self.stats = OrchestratorStats()
        self._ended_runs = 0
        if self._remembered is not self.task_store:
            self._remembered, self._memory = self.task_store, {}
            self._results.clear()
        self._trigger_hook("on_run_start", None, None)

    def _end(self) -> None:
        self.stats.end_time = now_seconds()
        self._trigger_hook("on_run_end", None, None)
        if self.state is not OrchestratorState.ERROR:
            self.state = OrchestratorState.STOPPED

    def _run_here(self) -> None:
        desk = CallerDesk(alone=self._workers == 1)
        session = self._session(desk)
        with self._engine_loop() as thread:
            ended = thread.submit(session.run())
            try:
                desk.serve()
            except BaseException:
                # Ctrl-C: what runs is stopped and given back; a second one cuts that short.
                session.abort()
                desk.serve()
                raise
            ended.result()

    async def _run_there(self) -> None:
        session = self._session(LoopDesk(asyncio.get_running_loop()))
        thread = self._take_loop()
        ended = asyncio.wrap_future(thread.submit(session.run()))
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError:
            session.abort()
            await asyncio.gather(ended, return_exceptions=True)
            raise
        finally:
            self._give_loop_back(thread)

    @contextmanager
    def _engine_loop(self) -> Iterator[LoopThread]:
        thread = self._take_loop()
        try:
            yield thread
        finally:
            self._give_loop_back(thread)

    def _take_loop(self) -> LoopThread:
        own = getattr(self.task_store, "engine_loop", None)
        return own() if callable(own) else LoopThread("orchd-engine")

    def _give_loop_back(self, thread: LoopThread) -> None:
        if not callable(getattr(self.task_store, "engine_loop", None)):
            thread.close()

    def _session(self, desk: Desk) -> Session:
        requeue = getattr(self.task_store, "requeue_interrupted", None)
        if callable(requeue):
            requeue()
        settings = getattr(self.task_store, "engine_settings", None)
        return Session(
            self._supervision,
            desk,
            self._open_ledger,
            settings(self._workers)
            if callable(settings)
            else embedded_settings("", self._workers, NO_LEASE_SECONDS),
            self._results,
        )

    def _open_ledger(self, desk: Desk) -> EmbeddedLedger:
        own = getattr(self.task_store, "engine_ledger", None)
        if callable(own):
            ledger: EmbeddedLedger = own(desk, self._supervision)
            return ledger
        return TaskStoreLedger(
            self.task_store,
            system=SYSTEM,
            max_attempts=self._max_attempts,
            call=desk.call,
            listener=self._supervision,
            memory=self._memory,
        )

    def _max_attempts(self) -> int:
        config = self.config
        return config.max_attempts_per_task if config.retry_on_failure else 0

    def _should_continue(self) -> bool:
        """Tell whether another task may start; asked before each one."""
        if self.state not in ACTIVE or not self.task_store.has_pending():
            return False
        return self.safety is None or self.safety.allow_continue()

    # --- what the engine reports ------------------------------------------------------

    def _settled(self, task: Task, event: str, result: ExecutionResult | None) -> None:
        """Handle the end of a run of a task; `event` names the hook to call."""
        self._ended_runs += 1
        self._trigger_hook(event, task, result)

    def _trigger_hook(
        self, event: str, task: Task | None, result: ExecutionResult | None
    ) -> None:
        for hook in self._hooks.get(event, ()):
            try:
                hook(self, task, result)
            except Exception as error:
                sys.stdout.write(f"Hook error ({event}): {error}\n")


class Supervision:
    """Turns what the engine does into an orchestrator's figures, hooks and safety."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._orchestrator = orchestrator
        self._held = False

    def may_claim(self) -> bool:
        """Tell whether a task may start, after the pause between tasks."""
        orchestrator = self._orchestrator
        self._held = orchestrator.state is OrchestratorState.PAUSED
        if self._held:
            return False
        ended, orchestrator._ended_runs = orchestrator._ended_runs, 0
        if ended and orchestrator.config.pause_between_tasks > 0:
            SYSTEM.block(orchestrator.config.pause_between_tasks)
        return orchestrator._should_continue()

    def is_held(self) -> bool:
        """Tell whether the last claim was refused because the orchestrator paused."""
        return self._held

    def is_paused(self) -> bool:
        """Tell whether the orchestrator pauses."""
        return self._orchestrator.state is OrchestratorState.PAUSED

    def is_active(self) -> bool:
        """Tell whether the run was not stopped."""
        return self._orchestrator.state in ACTIVE

    def current_executor(self) -> object:
        """Return the executor of now."""
        return self._orchestrator.executor

    def current_verifier(self) -> object | None:
        """Return the verifier of now, if results are verified."""
        wanted = self._orchestrator.config.verify_results
        return self._orchestrator.verifier if wanted else None

    def executed(self) -> None:
        """Count an execution."""
        self._orchestrator.stats.executions += 1

    def starting(self, task: Task) -> None:
        """Count a start and call the hooks."""
        self._orchestrator.stats.tasks_started += 1
        self._orchestrator._trigger_hook("on_task_start", task, None)

    def attempt_failed(self, task: Task, reason: str) -> None:
        """Tell the safety check of a failure."""
        if self._orchestrator.safety is not None:
            self._orchestrator.safety.record_failure(reason)

    def retried(self, task: Task) -> None:
        """Call the hooks for a retry."""
        self._orchestrator._settled(task, "on_task_retry", None)

    def failed(self, task: Task) -> None:
        """Count a failed task and call the hooks."""
        self._orchestrator.stats.tasks_failed += 1
        self._orchestrator._results.pop(task.id, None)
        self._orchestrator._settled(task, "on_task_fail", None)

    def completed(self, task: Task, state: TaskState) -> None:
        """Count a completed task, tell the safety check and call the hooks."""
        orchestrator = self._orchestrator
        orchestrator.stats.tasks_completed += 1
        if orchestrator.safety is not None:
            orchestrator.safety.record_success()
        result = orchestrator._results.pop(task.id, None)
        if result is None:
            confidence = 1.0 if state.confidence is None else state.confidence
            result = ExecutionResult(True, state.result or "", confidence)
        orchestrator._settled(task, "on_task_complete", result)
