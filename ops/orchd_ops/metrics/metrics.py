"""The metrics of one process: an observer of its engine, and a page for Prometheus."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from orchd.engine.observer import CommitTiming, Observer, PhaseTiming, TaskNews
from orchd.ledger.port import Ledger
from orchd.system import MICROSECONDS_PER_SECOND, System
from orchd.tasks import events as e
from orchd_ops.metrics.families import ProcessFamilies
from orchd_ops.metrics.readings import Reading, read
from orchd_ops.metrics.usage import Usage, usage_of

if TYPE_CHECKING:
    from orchd_ops.metrics.page import Page

logger = logging.getLogger(__name__)

CACHE_SECONDS = 1.0
"""Scrapes within this time share one look at the database."""
PATIENCE_SECONDS = 2.0
"""How long a scrape waits for the database before it takes the last known figures."""
MODELS_MAX = 64
"""Most values of the label `model`; results name their model themselves."""

OUTCOMES: dict[type[object], str] = {
    e.TaskCompleted: "completed",
    e.TaskFailed: "failed",
    e.TaskCancelled: "cancelled",
    e.TaskRetried: "retried",
    e.TaskReleased: "released",
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
        self._release = release
        self._families = ProcessFamilies()
        self._page: Page | None = None

    def set_slots(self, slots: Callable[[], tuple[int, int]]) -> None:
        """Show (used, all) run slots as `slots` returns them."""
        self._slots = slots

    def endings(self) -> dict[str, int]:
        """Return how many runs ended in each way; a cancelled task counts without one."""
        counts = dict.fromkeys(OUTCOMES.values(), 0)
        for (_, _, outcome), count in self._families.finished.values.items():
            counts[outcome] += int(count)
        return counts

    # --- the page ---------------------------------------------------------------------

    async def render(self, accept: str = "") -> tuple[str, bytes]:
        """Return content type and text for a scrape with that `Accept` header.

        Never raises for a database that is away: the last known figures are shown, and
        `orchd_log_reading_age_seconds` tells how old they are.
        """
        await self._refresh()
        if self._page is None:
            # In a thread, because of all that has to be imported for it.
            self._page = await asyncio.to_thread(self._open_page)
        return self._page.write(accept)

    def _open_page(self) -> Page:
        from orchd_ops.metrics.database import DatabaseFamilies
        from orchd_ops.metrics.page import Page

        database = DatabaseFamilies(
            last=lambda: self._reading,
            age_seconds=self._age_seconds,
            slots=lambda: self._slots(),
            executors=lambda: self._executors,
        )
        return Page(self._families, database, self._release)

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
            kind = type(event)
            outcome = OUTCOMES.get(kind)
            if outcome is not None:
                task = news.after
                self._families.finished.add((task.queue, task.executor, outcome))
            count = _COUNTED.get(kind)
            if count is not None:
                count(self, news, event)

    def _submitted(self, news: TaskNews, event: e.TaskSubmitted) -> None:
        self._families.submitted.add((news.after.queue,))

    def _started(self, news: TaskNews, event: e.TaskStarted) -> None:
        before, after = news.before, news.after
        self._families.started.add((after.queue, after.executor))
        if before is None or after.started_at is None:
            return
        ready_at = max(before.updated_at, before.run_at, before.waiting_until or 0)
        seconds = max(0, after.started_at - ready_at) / MICROSECONDS_PER_SECOND
        self._families.wait_seconds.observe(seconds, (after.queue,))

    def _retried(self, news: TaskNews, event: e.TaskRetried) -> None:
        task = news.after
        self._families.retries.add((task.queue, task.executor, event.error_class))

    def _executed(self, news: TaskNews, event: e.TaskExecuted | e.TaskCompleted) -> None:
        if event.result_metadata is not None:
            self.count_usage(usage_of(event.result_metadata))

    def _rejected(self, news: TaskNews, event: e.TaskLateResultRejected) -> None:
        self._families.late_results.add()

    def count_usage(self, usage: Usage | None) -> None:
        """Count the cost of a recorded result."""
        if usage is None:
            return
        model = usage.model
        if model not in self._models and len(self._models) >= MODELS_MAX:
            model = "other"
        self._models.add(model)
        for kind, tokens in usage.tokens.items():
            self._families.llm_tokens.add((model, kind), tokens)
        if usage.cost_usd is not None:
            self._families.llm_cost.add((model,), usage.cost_usd)

    def phase_ended(self, timing: PhaseTiming) -> None:
        """Observe how long an execution or a verification took."""
        families = self._families
        if timing.phase == "execute":
            labels = (timing.context.queue, timing.executor)
            families.execution_seconds.observe(timing.seconds, labels)
        else:
            families.verification_seconds.observe(timing.seconds, (timing.verifier or "",))

    def committed(self, timing: CommitTiming) -> None:
        """Observe a commit that appended something."""
        if timing.events:
            self._families.append_seconds.observe(timing.seconds)
            self._families.batch_size.observe(timing.events)

    def lease_lost(self, worker: str) -> None:
        """Count a lost lease."""
        self._families.leases_lost.add()


_COUNTED: dict[type[object], Callable[[Metrics, TaskNews, Any], None]] = {
    e.TaskSubmitted: Metrics._submitted,
    e.TaskStarted: Metrics._started,
    e.TaskRetried: Metrics._retried,
    e.TaskExecuted: Metrics._executed,
    e.TaskCompleted: Metrics._executed,
    e.TaskLateResultRejected: Metrics._rejected,
}
"""Event -> what else is counted of it."""
