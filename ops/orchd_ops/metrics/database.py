"""The families that describe the database, from figures read beside the scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from orchd.interfaces import TaskStatus
from orchd.ledger.port import QueueView
from orchd.system import MICROSECONDS_PER_SECOND
from orchd_ops.metrics.readings import Reading


class DatabaseFamilies(Collector):
    """Turns the last reading into samples; without one the families are empty.

    Args:
        last: the last reading, or None.
        age_seconds: its age, or None.
        slots: (used, all) run slots of this process, or None when it has none.
        executors: names whose breakers are shown as closed until they say otherwise.
    """

    def __init__(
        self,
        *,
        last: Callable[[], Reading | None],
        age_seconds: Callable[[], float | None],
        slots: Callable[[], tuple[int, int] | None],
        executors: Callable[[], Sequence[str]],
    ) -> None:
        self._last = last
        self._age_seconds = age_seconds
        self._slots = slots
        self._executors = executors

    def describe(self) -> list[Metric]:
        """Name nothing in advance, so that registering does not collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        reading = self._last()
        queues = () if reading is None else reading.queues
        yield _depths(queues)
        yield _ages(queues, 0 if reading is None else reading.at)
        yield _dead_letters(queues)
        yield self._breaker_states(reading)
        yield from _log_families(reading)
        yield self._worker_slots()
        yield self._reading_age()

    def _breaker_states(self, reading: Reading | None) -> Metric:
        family = GaugeMetricFamily(
            "orchd_breaker_state",
            "Breaker of an executor: 0 closed, 1 half-open, 2 open.",
            labels=["breaker"],
        )
        known = {} if reading is None else dict(reading.breakers)
        states = dict.fromkeys(self._executors(), 0) | known
        for name, value in sorted(states.items()):
            family.add_metric([name], value)
        return family

    def _worker_slots(self) -> Metric:
        family = GaugeMetricFamily(
            "orchd_worker_slots", "Run slots of this process.", labels=["state"]
        )
        used, total = self._slots() or (0, 0)
        family.add_metric(["used"], used)
        family.add_metric(["free"], max(0, total - used))
        return family

    def _reading_age(self) -> Metric:
        family = GaugeMetricFamily(
            "orchd_log_reading_age_seconds",
            "Age of the figures that describe the database; grows while it is away.",
        )
        age = self._age_seconds()
        if age is not None:
            family.add_metric([], age)
        return family


def _depths(queues: Sequence[QueueView]) -> Metric:
    family = GaugeMetricFamily(
        "orchd_queue_depth", "Tasks by queue and status.", labels=["queue", "status"]
    )
    for queue in queues:
        for status in TaskStatus:
            depth = queue.depth.get(status.value, 0)
            family.add_metric([queue.name, status.value], depth)
    return family


def _ages(queues: Sequence[QueueView], now: int) -> Metric:
    family = GaugeMetricFamily(
        "orchd_queue_oldest_ready_age_seconds",
        "How long the longest-ready task has been ready; 0 without one.",
        labels=["queue"],
    )
    for queue in queues:
        since = now if queue.oldest_ready_at is None else queue.oldest_ready_at
        age = max(0, now - since) / MICROSECONDS_PER_SECOND
        family.add_metric([queue.name], age)
    return family


def _dead_letters(queues: Sequence[QueueView]) -> Metric:
    family = GaugeMetricFamily(
        "orchd_dead_letters", "Tasks in the dead-letter queue.", labels=["queue"]
    )
    for queue in queues:
        family.add_metric([queue.name], queue.depth.get(TaskStatus.FAILED.value, 0))
    return family


def _log_families(reading: Reading | None) -> Iterator[Metric]:
    events = CounterMetricFamily(
        "orchd_log_events_total", "Events in the log by type.", labels=["type"]
    )
    position = GaugeMetricFamily("orchd_log_position", "Position of the log's last event.")
    if reading is not None:
        position.add_metric([], reading.position)
        for name, count in sorted(reading.event_counts.items()):
            events.add_metric([name], count)
    yield events
    yield position
