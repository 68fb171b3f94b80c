"""Measures how orchd does as its log, queue, fleet, load, payloads and distances grow.

    python bench/growth.py [--size full|short|tiny] [--only NAME ...] [--ten-million]

Prints a table for each thing that grows, and writes JSON and pictures to `bench/results`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

import msgspec

from harness import loads, report
from harness.drawing import draw
from harness.growths import GROWTH_SIZES, GROWTHS, Growth, Growths, GrowthSizes
from harness.line_process import ProcessFailed
from harness.paths import RESULTS
from harness.progress import Progress
from harness.servers import POSTGRESQL, Servers

TEN_MILLION = 10_000_000
Points = list[dict[str, Any]]


def options() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=list(GROWTH_SIZES), default="full")
    parser.add_argument("--only", nargs="+", choices=[one.name for one in GROWTHS])
    parser.add_argument("--ten-million", action="store_true", help="a log that long, too")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--no-plots", action="store_true")
    return parser.parse_args()


def sizes_of(chosen: argparse.Namespace) -> GrowthSizes:
    """Return how far everything grows."""
    sizes = GROWTH_SIZES[chosen.size]
    if chosen.ten_million:
        longer = (*sizes.log_events, TEN_MILLION)
        sizes = msgspec.structs.replace(sizes, log_events=longer)
    return sizes


def points(
    growth: Growth, growths: Growths, sizes: GrowthSizes, progress: Progress
) -> Points:
    """Measure at every size, on every database."""
    found: Points = []
    for size in getattr(sizes, growth.field):
        for database in growth.databases:
            name = f"{growth.name} {size:,} on {database}"
            try:
                values = getattr(growths, growth.name)(database, size)
            except (ProcessFailed, loads.NoProgress, OSError) as error:
                progress.step(name, growth.unit, f"failed: {error}")
                continue
            found.append({"database": database, "size": size, "values": values})
            told = ", ".join(f"{metric} {value:,.1f}" for metric, value in values.items())
            progress.step(name, growth.unit, told)
    return found


def steps(chosen: list[Growth], sizes: GrowthSizes) -> int:
    """Return how many measurements there are."""
    return sum(len(getattr(sizes, one.field)) * len(one.databases) for one in chosen)


def tables(grown: dict[str, Any]) -> Iterator[str]:
    """Yield a table for each thing that grew."""
    for growth in grown.values():
        metrics = sorted({m for point in growth["points"] for m in point["values"]})
        rows = [
            [
                f"{point['size']:,}",
                point["database"],
                *(report.number(point["values"].get(metric), 1) for metric in metrics),
            ]
            for point in growth["points"]
        ]
        head = [growth["unit"], "database", *(m.replace("_", " ") for m in metrics)]
        yield f"{growth['title']}\n\n{report.table(head, rows)}"


def main() -> None:
    """Measure, tell, and keep."""
    chosen, progress = options(), Progress()
    sizes = sizes_of(chosen)
    wanted = [one for one in GROWTHS if not chosen.only or one.name in chosen.only]
    progress.begin(steps(wanted, sizes))
    grown: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ob")))
        servers = Servers(stack, folder)
        told = report.conditions(chosen.size, {POSTGRESQL: servers.settings(POSTGRESQL)})
        growths = Growths(sizes, servers, folder)
        for one in wanted:
            found = points(one, growths, sizes, progress)
            grown[one.name] = {**msgspec.structs.asdict(one), "points": found}
    chosen.results.mkdir(parents=True, exist_ok=True)
    path = chosen.results / "growth.json"
    document = {"conditions": told, "growth": grown}
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    print("\n\n".join(tables(grown)))
    if not chosen.no_plots:
        draw("growth", path)


if __name__ == "__main__":
    main()
