"""The families that describe this process. Names and labels are public: add only.

They are plain numbers: a task changes several of them, and the library that writes the
page makes texts of the labels and takes a lock each time. It is not even imported before
somebody asks for the page.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TypeAlias

SECONDS_OF_WORK = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
SECONDS_OF_WAITING = (0.01, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400, 86400)
SECONDS_OF_COMMIT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)
EVENTS_IN_COMMIT = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)

Labels: TypeAlias = tuple[str, ...]
"""The values of a family's labels, in the order of their names."""


class Counter:
    """A number that only rises, for each combination of labels that was seen."""

    def __init__(self, name: str, meaning: str, *label_names: str) -> None:
        self.name = name
        self.meaning = meaning
        self.label_names = label_names
        # Where there are no labels, the one series is there from the start.
        self.values: dict[Labels, float] = {} if label_names else {(): 0.0}

    def add(self, labels: Labels = (), amount: float = 1.0) -> None:
        """Raise the number with these labels."""
        self.values[labels] = self.values.get(labels, 0.0) + amount


class Series:
    """The values of a histogram with one combination of labels."""

    __slots__ = ("counts", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        """How many values fell into each bucket and none below; the last has no bound."""
        self.total = 0.0
        """The sum of all values."""


class Histogram:
    """How many values fell into which bucket, for each combination of labels."""

    def __init__(
        self, name: str, meaning: str, *label_names: str, bounds: Sequence[float]
    ) -> None:
        self.name = name
        self.meaning = meaning
        self.label_names = label_names
        self.bounds = bounds
        """The upper bounds of the buckets; a value on a bound is below it."""
        self.series: dict[Labels, Series] = {}
        if not label_names:
            self._begin(())

    def observe(self, value: float, labels: Labels = ()) -> None:
        """Add a value to the series with these labels."""
        series = self.series.get(labels) or self._begin(labels)
        series.counts[bisect_left(self.bounds, value)] += 1
        series.total += value

    def _begin(self, labels: Labels) -> Series:
        series = self.series[labels] = Series(len(self.bounds) + 1)
        return series


class ProcessFamilies:
    """Counters and histograms that rise after the commit that made them true."""

    def __init__(self) -> None:
        self.submitted = Counter("orchd_tasks_submitted_total", "Tasks accepted.", "queue")
        self.started = Counter(
            "orchd_tasks_started_total", "Runs started.", "queue", "executor"
        )
        self.finished = Counter(
            "orchd_tasks_finished_total",
            "Runs ended, and pending tasks cancelled, by how it ended.",
            "queue",
            "executor",
            "outcome",
        )
        self.retries = Counter(
            "orchd_task_retries_total",
            "Attempts that failed and are followed by another one.",
            "queue",
            "executor",
            "error_class",
        )
        self.leases_lost = Counter(
            "orchd_leases_lost_total", "Times this process's worker was fenced."
        )
        self.late_results = Counter(
            "orchd_late_results_rejected_total",
            "Reports of runs that had lost their task.",
        )
        self.llm_tokens = Counter(
            "orchd_llm_tokens_total",
            "Tokens of recorded results; the kind input is what was not cached.",
            "model",
            "kind",
        )
        self.llm_cost = Counter(
            "orchd_llm_cost_usd_total", "Price of recorded results in US dollars.", "model"
        )
        self.execution_seconds = Histogram(
            "orchd_task_execution_seconds",
            "Duration of executions.",
            "queue",
            "executor",
            bounds=SECONDS_OF_WORK,
        )
        self.verification_seconds = Histogram(
            "orchd_task_verification_seconds",
            "Duration of verifications.",
            "verifier",
            bounds=SECONDS_OF_WORK,
        )
        self.wait_seconds = Histogram(
            "orchd_task_wait_seconds",
            "Time between a task's becoming ready and its start.",
            "queue",
            bounds=SECONDS_OF_WAITING,
        )
        self.append_seconds = Histogram(
            "orchd_log_append_seconds",
            "Duration of commits that appended events.",
            bounds=SECONDS_OF_COMMIT,
        )
        self.batch_size = Histogram(
            "orchd_log_batch_size", "Events in one commit.", bounds=EVENTS_IN_COMMIT
        )

    @property
    def all(self) -> Sequence[Counter | Histogram]:
        """Every family, in the order of the page."""
        return tuple(vars(self).values())
