"""The metrics of one process: an observer of its engine, and a page for Prometheus."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from orchd.engine.observer import CommitTiming, Observer, PhaseTiming, TaskNews
from orchd.ledger.port import Ledger
from orchd.system import MICROSECONDS_PER_SECOND, System
from orchd.tasks import events as e
from orchd.tasks.state import TaskState
from orchd_ops.metrics.families import ProcessFamilies
from orchd_ops.metrics.readings import DatabaseFamilies, Reading, read
from orchd_ops.metrics.usage import Usage, usage_of

logger = logging.getLogger(__name__)

CACHE_SECONDS = 1.0
"""Scrapes within this time share one look at the database."""
PATIENCE_SECONDS = 2.0
"""How long a scrape waits for the database before it takes the last known figures."""
MODELS_MAX = 64
"""Most values of the label `model`; results name their model themselves."""

OUTCOMES: dict[type[object], str] = {
    e.TaskCompleted: "completed",
    e.TaskRetried: "retried",
    e.TaskFailed: "failed",
    e.TaskReleased: "released",
    e.TaskCancelled: "cancelled",
}
"""Event that ends a run -> value of the label `outcome`."""


class Metrics(Observer):
    """Counts what this process commits and shows how the database stands.

    Args:
        ledger: read at most once a second, when somebody asks for the page.
        release: the running version, for `orchd_build_info`.
        executors: names whose breakers are shown before they ever opened.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        system: System,
        release: str = "",
        executors: Sequence[str] = (),
    ) -> None:
        self._ledger = ledger
        self._system = system
        self._slots: Callable[[], tuple[int, int] | None] = lambda: None
        self._executors = tuple(executors)
        self._reading: Reading | None = None
        self._read_at: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._expired = False
        self._models: set[str] = set()
        self.registry = CollectorRegistry()
        self._families = ProcessFamilies(self.registry, release)
        self.registry.register(
            DatabaseFamilies(
                last=lambda: self._reading,
                age_seconds=self._age_seconds,
                slots=lambda: self._slots(),
                executors=lambda: self._executors,
            )
        )

    def set_slots(self, slots: Callable[[], tuple[int, int]]) -> None:
        """Show (used, all) run slots as `slots` returns them."""
        self._slots = slots

    # --- the page ---------------------------------------------------------------------

    async def render(self, accept: str = "") -> tuple[str, bytes]:
        """Return content type and text for a scrape with that `Accept` header.

        Never raises for a database that is away: the last known figures are shown, and
        `orchd_log_reading_age_seconds` tells how old they are.
        """
        await self._refresh()
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):
            # A version that is no number. The plain format is for everybody.
            encode, content_type = choose_encoder("")
        return content_type, encode(self.registry)

    def forget_reading(self) -> None:
        """Look at the database again at the next scrape, however soon it comes."""
        self._expired = True

    async def _refresh(self) -> None:
        age = self._age_seconds()
        if age is not None and age < CACHE_SECONDS and not self._expired:
            return
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._read(), name="orchd-metrics")
        # A reading that takes longer goes on, and serves the next scrape.
        await asyncio.wait((self._task,), timeout=PATIENCE_SECONDS)

    async def _read(self) -> None:
        try:
            self._reading = await read(self._ledger)
            self._read_at = self._system.monotonic()
            self._expired = False
        except Exception as error:
            logger.warning("metrics show the last known figures: %s", error)

    def _age_seconds(self) -> float | None:
        if self._read_at is None:
            return None
        return self._system.monotonic() - self._read_at

    # --- news of the engine -----------------------------------------------------------

    def task_moved(self, news: TaskNews) -> None:
        """Count what happened to a task."""
        for event in news.events:
            self._count(news, event)

    def _count(self, news: TaskNews, event: e.TaskEvent) -> None:
        task, families = news.after, self._families
        outcome = OUTCOMES.get(type(event))
        if outcome is not None:
            families.finished.labels(task.queue, task.executor, outcome).inc()
        if isinstance(event, e.TaskSubmitted):
            families.submitted.labels(task.queue).inc()
        elif isinstance(event, e.TaskStarted):
            families.started.labels(task.queue, task.executor).inc()
            self._observe_wait(news.before, task)
        elif isinstance(event, e.TaskRetried):
            families.retries.labels(task.queue, task.executor, event.error_class).inc()
        elif isinstance(event, e.TaskLateResultRejected):
            families.late_results.labels().inc()
        elif isinstance(event, e.TaskExecuted | e.TaskCompleted):
            self.count_usage(usage_of(event.result_metadata))

    def _observe_wait(self, before: TaskState | None, after: TaskState) -> None:
        if before is None or after.started_at is None:
            return
        ready_at = max(before.updated_at, before.run_at, before.waiting_until or 0)
        seconds = max(0, after.started_at - ready_at) / MICROSECONDS_PER_SECOND
        self._families.wait_seconds.labels(after.queue).observe(seconds)

    def count_usage(self, usage: Usage | None) -> None:
        """Count the cost of a recorded result."""
        if usage is None:
            return
        model = usage.model
        if model not in self._models and len(self._models) >= MODELS_MAX:
            model = "other"
        self._models.add(model)
        for kind, tokens in usage.tokens.items():
            self._families.llm_tokens.labels(model, kind).inc(tokens)
        if usage.cost_usd is not None:
            self._families.llm_cost.labels(model).inc(usage.cost_usd)

    def phase_ended(self, timing: PhaseTiming) -> None:
        """Observe how long an execution or a verification took."""
        if timing.phase == "execute":
            series = self._families.execution_seconds.labels(
                timing.context.queue, timing.executor
            )
        else:
            series = self._families.verification_seconds.labels(timing.verifier or "")
        series.observe(timing.seconds)

    def committed(self, timing: CommitTiming) -> None:
        """Observe a commit that appended something."""
        if timing.events:
            self._families.append_seconds.labels().observe(timing.seconds)
            self._families.batch_size.labels().observe(timing.events)

    def lease_lost(self, worker: str) -> None:
        """Count a lost lease."""
        self._families.leases_lost.labels().inc()
