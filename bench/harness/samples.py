"""What was measured: every single value, and the medians that are compared."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

Key = tuple[str, str]
"""A contestant's name, and what was measured."""


class Samples:
    """All values of a run."""

    def __init__(self) -> None:
        self._values: dict[Key, list[float]] = {}
        self.failures: list[str] = []
        """What could not be measured, and why."""

    def add(self, name: str, values: Mapping[str, float]) -> None:
        """Keep what one trial came to."""
        for metric, value in values.items():
            self._values.setdefault((name, metric), []).append(value)

    def fail(self, name: str, load: str, reason: str) -> None:
        """Keep that a trial came to nothing."""
        self.failures.append(f"{name}, {load}: {reason}")

    def values(self, name: str, metric: str) -> list[float]:
        """Return every value of a metric."""
        return list(self._values.get((name, metric), ()))

    def median(self, name: str, metric: str) -> float | None:
        """Return the median of a metric, or None when it was not measured."""
        values = self.values(name, metric)
        return median(values) if values else None

    def as_dict(self) -> dict[str, dict[str, list[float]]]:
        """Return everything as a JSON object."""
        told: dict[str, dict[str, list[float]]] = {}
        for (name, metric), values in self._values.items():
            told.setdefault(name, {})[metric] = values
        return told


def percentile(values: list[float], share: float) -> float:
    """Return the value below which that share of the values lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def ratio(one: float | None, other: float | None) -> float | None:
    """Return how many times the other the one is, when both are known."""
    if one is None or not other:
        return None
    return one / other
