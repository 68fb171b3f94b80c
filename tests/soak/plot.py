"""The picture of a soak: memory over tasks, with the line that fits it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from soak.growth import Growth
from soak.samples import Sample

SIZE_INCHES = (9, 5)


def draw(path: Path, samples: Sequence[Sample], found: Growth, title: str) -> None:
    """Write the picture as SVG; the same samples give the same file."""
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    memory, counts = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    tasks = [sample.tasks for sample in samples]
    memory.plot(tasks, [sample.resident_mb for sample in samples], lw=1, label="measured")
    ends = (found.samples[0].tasks, found.samples[-1].tasks)
    label = f"{found.mb_per_100_000:+.2f} MB for each 100,000 tasks"
    memory.plot(ends, [found.at(end) for end in ends], "--", lw=1.5, label=label)
    memory.set_ylim(bottom=0)
    memory.set_ylabel("resident memory, MB")
    memory.set_title(title)
    memory.legend(loc="lower right")
    counts.plot(tasks, [s.asyncio_tasks for s in samples], lw=1, label="asyncio tasks")
    counts.plot(tasks, [s.descriptors for s in samples], lw=1, label="descriptors")
    counts.set_ylim(bottom=0)
    counts.set_xlabel("tasks done")
    counts.legend(loc="upper right")
    counts.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    with mpl.rc_context({"svg.hashsalt": "orchd"}):
        figure.savefig(path, format="svg", metadata={"Date": None})
