"""How large a scenario is: small by default, full with `ORCHD_CHAOS=full`.

`make chaos` runs the full sizes. Each figure can also be given alone, as in
`ORCHD_CHAOS_KILLS=20`, and the seeds as in `ORCHD_CHAOS_SEEDS=7,8`.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

FULL = os.environ.get("ORCHD_CHAOS", "") == "full"
SEEDS_FILE = Path(__file__).with_name("seeds.toml")


def size(name: str, *, small: int, full: int) -> int:
    """Return the figure called `name` of the scenario that asks."""
    return int(os.environ.get(f"ORCHD_CHAOS_{name}") or (full if FULL else small))


def duration_seconds(name: str, *, small: float, full: float) -> float:
    """Return the span of time called `name` of the scenario that asks."""
    return float(os.environ.get(f"ORCHD_CHAOS_{name}") or (full if FULL else small))


def seeds(scenario: str) -> list[int]:
    """Return the seeds to run a scenario with: those kept, or those that were given."""
    given = os.environ.get("ORCHD_CHAOS_SEEDS")
    if given:
        return [int(word) for word in given.split(",")]
    kept: dict[str, list[int]] = tomllib.loads(SEEDS_FILE.read_text())["seeds"]
    return kept[scenario]
