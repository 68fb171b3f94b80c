"""The page for Prometheus, in whatever format the scraper prefers."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from orchd_ops.metrics.database import DatabaseFamilies
from orchd_ops.metrics.families import Counter, Histogram, ProcessFamilies


class Page:
    """Writes the families of a process and of its database down.

    Args:
        release: the running version, for `orchd_build_info`.
    """

    def __init__(
        self, process: ProcessFamilies, database: DatabaseFamilies, release: str
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Families(process.all))
        self._registry.register(_Build(release))
        # Memory, descriptors and processor time, under the names that everybody uses.
        ProcessCollector(registry=self._registry)
        self._registry.register(_Loop())
        self._registry.register(database)

    def write(self, accept: str) -> tuple[str, bytes]:
        """Return content type and text for a scrape with that `Accept` header."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):
            # A version that is no number. The plain format is for everybody.
            encode, content_type = choose_encoder("")
        return content_type, encode(self._registry)


class _Families(Collector):
    def __init__(self, families: Sequence[Counter | Histogram]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            yield _counted(family) if isinstance(family, Counter) else _measured(family)


def _counted(counter: Counter) -> Metric:
    labels = counter.label_names
    family = CounterMetricFamily(counter.name, counter.meaning, labels=labels)
    for values, number in counter.values.items():
        family.add_metric(values, number)
    return family


def _measured(histogram: Histogram) -> Metric:
    labels = histogram.label_names
    family = HistogramMetricFamily(histogram.name, histogram.meaning, labels=labels)
    bounds = [_text(bound) for bound in (*histogram.bounds, float("inf"))]
    for values, series in histogram.series.items():
        # Each bucket of the page holds those below it, too.
        below = zip(bounds, accumulate(series.counts), strict=True)
        family.add_metric(values, buckets=list(below), sum_value=series.total)
    return family


def _text(bound: float) -> str:
    text: str = floatToGoString(bound)  # type: ignore[no-untyped-call]  # it has no types
    return text


class _Build(Collector):
    def __init__(self, release: str) -> None:
        self._labels = (release or "unknown", platform.python_version())

    def collect(self) -> Iterator[Metric]:
        names = ("version", "python")
        meaning = "The running release; always 1."
        family = GaugeMetricFamily("orchd_build_info", meaning, labels=names)
        family.add_metric(self._labels, 1)
        yield family


class _Loop(Collector):
    def collect(self) -> Iterator[Metric]:
        tasks = float(len(asyncio.all_tasks()))
        meaning = "Tasks of this process's event loop."
        yield GaugeMetricFamily("orchd_asyncio_tasks", meaning, value=tasks)
