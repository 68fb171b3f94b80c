"""Whether a daemon grows with what it has done, from samples of its life."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import linear_regression
from typing import NamedTuple

from soak.samples import Sample

GROWTH_MB_MAX = 1.0
"""Megabytes for each 100,000 tasks; so many are too many."""
PER_TASKS = 100_000
RISE_MAX = 2
"""By so much may the least of the last third exceed that of the first third, where a
number is to stay as it is: what comes and goes does not lift the floor, a leak does."""
SAMPLES_MIN = 6


class Growth(NamedTuple):
    """How memory grew after the warm-up, as a straight line by least squares."""

    mb_per_100_000: float
    mb_at_start: float
    samples: Sequence[Sample]
    """Those of after the warm-up."""

    def at(self, tasks: int) -> float:
        """Return the megabytes that the line has at so many tasks."""
        return self.mb_at_start + self.mb_per_100_000 * tasks / PER_TASKS


def growth(samples: Sequence[Sample], warm_up_tasks: int) -> Growth:
    """Fit the line.

    Raises:
        ValueError: there are too few samples of after the warm-up.
    """
    after = [sample for sample in samples if sample.tasks >= warm_up_tasks]
    if len({sample.tasks for sample in after}) < SAMPLES_MIN:
        raise ValueError(f"only {len(after)} samples of after {warm_up_tasks:,} tasks")
    slope, start = linear_regression(
        [sample.tasks / PER_TASKS for sample in after],
        [sample.resident_mb for sample in after],
    )
    return Growth(slope, start, after)


def faults(found: Growth, growth_mb_max: float = GROWTH_MB_MAX) -> Iterator[str]:
    """Say what grew and must not."""
    if found.mb_per_100_000 >= growth_mb_max:
        yield (
            f"memory grew by {found.mb_per_100_000:.2f} MB for each {PER_TASKS:,} tasks; "
            f"less than {growth_mb_max:g} MB is allowed"
        )
    named: tuple[tuple[str, Callable[[Sample], int]], ...] = (
        ("descriptors", lambda sample: sample.descriptors),
        ("asyncio tasks", lambda sample: sample.asyncio_tasks),
    )
    for name, of in named:
        first, last = floors(found.samples, of)
        if last - first > RISE_MAX:
            yield f"{name} rose from {first} to {last}; they must stay as they are"


def floors(samples: Sequence[Sample], of: Callable[[Sample], int]) -> tuple[int, int]:
    """Return the least value in the first third of the samples, and in the last."""
    third = max(1, len(samples) // 3)
    return min(map(of, samples[:third])), min(map(of, samples[-third:]))
