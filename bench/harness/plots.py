"""Draws the results as SVG; runs in the environment that holds matplotlib.

python -m harness.plots comparison RESULTS.json FOLDER
python -m harness.plots growth RESULTS.json FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

BARS = {
    "drain_per_second": ("Drain: tasks a second", True),
    "bulk_per_second": ("Bulk submission: tasks a second", True),
    "latency_p50_milliseconds": ("Submission to start, median: ms", False),
    "latency_p99_milliseconds": ("Submission to start, 99 of 100: ms", False),
    "cold_seconds": ("Start to first task: seconds", False),
    "bytes_per_task": ("Storage: bytes a finished task", False),
}
COLOURS = {"orchd": "#1f6feb", "bound": "#9aa4b2", "peer": "#d9822b"}


def draw_bars(document: dict[str, Any], metric: str, folder: Path) -> None:
    """Draw one metric of everybody, each repetition as a dot on the bar of the median."""
    title, more_is_better = BARS[metric]
    measured = [
        (median(values[metric]), values[metric], document["contestants"][name])
        for name, values in document["samples"].items()
        if metric in values and name in document["contestants"]
    ]
    if not measured:
        return
    measured.sort(key=lambda one: one[0], reverse=not more_is_better)
    figure, axes = pyplot.subplots(figsize=(9, 0.5 * len(measured) + 1.2))
    for place, (middle, values, contestant) in enumerate(measured):
        axes.barh(place, middle, color=COLOURS[contestant["kind"]])
        axes.plot(values, [place] * len(values), "k.", markersize=4)
        axes.annotate(f" {figure_text(middle)}", (middle, place), va="center", fontsize=8)
    axes.set_yticks(range(len(measured)), [one["title"] for _, _, one in measured])
    axes.set_title(f"{title} ({'more' if more_is_better else 'less'} is better)")
    axes.margins(x=0.16)
    save(figure, folder / f"{metric}.svg")


def figure_text(value: float) -> str:
    """Return a figure with three digits that count, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def draw_growth(name: str, growth: dict[str, Any], folder: Path) -> None:
    """Draw how figures change with one size; each has an axis of its own."""
    metrics = sorted({metric for point in growth["points"] for metric in point["values"]})
    figure, rows = pyplot.subplots(
        len(metrics), 1, figsize=(7, 2.2 * len(metrics) + 0.8), sharex=True, squeeze=False
    )
    for axes, metric in zip(rows[:, 0], metrics, strict=True):
        for database in sorted({point["database"] for point in growth["points"]}):
            line = [
                (point["size"], point["values"][metric])
                for point in growth["points"]
                if point["database"] == database and metric in point["values"]
            ]
            axes.plot(*zip(*line, strict=True), marker="o", label=database)
        axes.set_ylabel(metric.replace("_", " "), fontsize=7)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7)
        if growth["logarithmic"]:
            axes.set_xscale("log")
    rows[-1, 0].set_xlabel(growth["unit"])
    figure.suptitle(growth["title"])
    save(figure, folder / f"growth_{name}.svg")


def save(figure: Any, path: Path) -> None:
    """Write a picture."""
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def main() -> None:
    """Draw everything that a file of results holds."""
    kind, source, target = sys.argv[1:]
    document, folder = json.loads(Path(source).read_text()), Path(target)
    if kind == "growth":
        for name, growth in document["growth"].items():
            if growth["points"]:
                draw_growth(name, growth, folder)
        return
    for metric in BARS:
        draw_bars(document, metric, folder)


if __name__ == "__main__":
    main()
