"""Runs orchd and its peers side by side, and says which goals were reached.

    python bench/compare.py [--size full|short|tiny] [--repetitions N] [--only NAME ...]

Everything it needs it sets up by itself: an environment for each peer from pinned packages,
PostgreSQL and Redis on loopback with durable settings, and it ends what it started. Tables
go to standard output, progress to standard error, JSON and pictures to `bench/results`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

import msgspec

from harness import report
from harness.comparison import LOADS, Comparison
from harness.drawing import draw
from harness.environments import compile_checkout
from harness.paths import RESULTS
from harness.progress import Progress
from harness.roster import CONTESTANTS
from harness.servers import Servers
from harness.sizes import SIZES


def options() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=list(SIZES), default="full")
    parser.add_argument("--repetitions", type=int)
    parser.add_argument("--idle-seconds", type=float)
    parser.add_argument("--only", nargs="+", choices=[one.name for one in CONTESTANTS])
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=LOADS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--no-plots", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Measure, tell, and keep."""
    chosen, progress = options(), Progress()
    sizes = SIZES[chosen.size]
    given = {"repetitions": chosen.repetitions, "idle_seconds": chosen.idle_seconds}
    sizes = msgspec.structs.replace(sizes, **{k: v for k, v in given.items() if v})
    wanted = [one for one in CONTESTANTS if not chosen.only or one.name in chosen.only]
    compile_checkout()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ob")))
        servers = Servers(stack, folder)
        kinds = dict.fromkeys(one.database for one in wanted)
        told = report.conditions(chosen.size, {k: servers.settings(k) for k in kinds})
        for name, value in told.items():
            progress.say(f"{name}: {value}")
        samples = Comparison(wanted, sizes, servers, folder, progress, chosen.loads).run()
    path = report.save(samples, told, chosen.results)
    print(report.text(samples, told))
    if not chosen.no_plots:
        draw("comparison", path)


if __name__ == "__main__":
    main()
