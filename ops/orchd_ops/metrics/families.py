"""The families that describe this process. Names and labels are public: add only."""

from __future__ import annotations

import asyncio
import platform
from typing import Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

SECONDS_OF_WORK = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
SECONDS_OF_WAITING = (0.01, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400, 86400)
SECONDS_OF_COMMIT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)
EVENTS_IN_COMMIT = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)


Metric = TypeVar("Metric", Counter, Histogram)


class Family(Generic[Metric]):
    """Finds the series of a family by its labels.

    The library makes texts of the labels and takes a lock each time; with several series
    for every task that was a tenth of what a task costs.
    """

    def __init__(self, metric: Metric) -> None:
        self._metric: Metric = metric
        self._series: dict[tuple[str, ...], Metric] = {}

    def labels(self, *labels: str) -> Metric:
        """Return the series with these labels."""
        series = self._series.get(labels)
        if series is None:
            series = self._metric.labels(*labels) if labels else self._metric
            self._series[labels] = series
        return series


class ProcessFamilies:
    """Counters and histograms that rise after the commit that made them true.

    Each series is exposed from the start where its labels are known, and each family in
    any case.
    """

    def __init__(self, registry: CollectorRegistry, release: str) -> None:
        # A `_created` sample a series would double the page and tells nobody anything.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no types
        self._declare_counters(registry)
        self._declare_histograms(registry)
        build = Gauge(
            "orchd_build_info",
            "The running release; always 1.",
            ["version", "python"],
            registry=registry,
        )
        build.labels(release or "unknown", platform.python_version()).set(1)
        # Memory, descriptors and processor time, under the names that everybody uses.
        ProcessCollector(registry=registry)
        tasks = Gauge(
            "orchd_asyncio_tasks", "Tasks of this process's event loop.", registry=registry
        )
        tasks.set_function(lambda: float(len(asyncio.all_tasks())))

    def _declare_counters(self, registry: CollectorRegistry) -> None:
        def counter(name: str, meaning: str, *labels: str) -> Family[Counter]:
            return Family(Counter(name, meaning, labels, registry=registry))

        self.submitted = counter("orchd_tasks_submitted_total", "Tasks accepted.", "queue")
        self.started = counter(
            "orchd_tasks_started_total", "Runs started.", "queue", "executor"
        )
        self.finished = counter(
            "orchd_tasks_finished_total",
            "Runs ended, and pending tasks cancelled, by how it ended.",
            "queue",
            "executor",
            "outcome",
        )
        self.retries = counter(
            "orchd_task_retries_total",
            "Attempts that failed and are followed by another one.",
            "queue",
            "executor",
            "error_class",
        )
        self.leases_lost = counter(
            "orchd_leases_lost_total", "Times this process's worker was fenced."
        )
        self.late_results = counter(
            "orchd_late_results_rejected_total",
            "Reports of runs that had lost their task.",
        )
        self.llm_tokens = counter(
            "orchd_llm_tokens_total",
            "Tokens of recorded results; the kind input is what was not cached.",
            "model",
            "kind",
        )
        self.llm_cost = counter(
            "orchd_llm_cost_usd_total", "Price of recorded results in US dollars.", "model"
        )

    def _declare_histograms(self, registry: CollectorRegistry) -> None:
        def histogram(
            name: str, meaning: str, labels: tuple[str, ...], buckets: tuple[float, ...]
        ) -> Family[Histogram]:
            return Family(
                Histogram(name, meaning, labels, registry=registry, buckets=buckets)
            )

        self.execution_seconds = histogram(
            "orchd_task_execution_seconds",
            "Duration of executions.",
            ("queue", "executor"),
            SECONDS_OF_WORK,
        )
        self.verification_seconds = histogram(
            "orchd_task_verification_seconds",
            "Duration of verifications.",
            ("verifier",),
            SECONDS_OF_WORK,
        )
        self.wait_seconds = histogram(
            "orchd_task_wait_seconds",
            "Time between a task's becoming ready and its start.",
            ("queue",),
            SECONDS_OF_WAITING,
        )
        self.append_seconds = histogram(
            "orchd_log_append_seconds",
            "Duration of commits that appended events.",
            (),
            SECONDS_OF_COMMIT,
        )
        self.batch_size = histogram(
            "orchd_log_batch_size", "Events in one commit.", (), EVENTS_IN_COMMIT
        )
