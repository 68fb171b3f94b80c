"""Tables for people and JSON for programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from harness.comparison import ANCHOR, TO_ANCHOR
from harness.goals import verdicts
from harness.roster import (
    ANCHOR_OF,
    BELOW_REFERENCE,
    CONTESTANTS,
    ORCHD,
    REFERENCE_ANCHORS,
    Contestant,
)
from harness.samples import Samples, ratio
from harness.servers import POSTGRESQL, SQLITE

LIFECYCLES = "lifecycles_per_second"
DRAIN = "drain_per_second"
MISSING = "-"


class Column(NamedTuple):
    """A column of the main table."""

    title: str
    metric: str
    digits: int


COLUMNS = (
    Column("drain /s", DRAIN, 0),
    Column("bulk /s", "bulk_per_second", 0),
    Column("one by one /s", "single_per_second", 0),
    Column("HTTP /s", "http_per_second", 0),
    Column("p50 ms", "latency_p50_milliseconds", 1),
    Column("p99 ms", "latency_p99_milliseconds", 1),
    Column("cold s", "cold_seconds", 2),
    Column("B/task", "bytes_per_task", 0),
    Column("busy MiB", "busy_rss_megabytes", 0),
)
COSTS = (
    Column("idle % of a core", "idle_cpu_percent", 2),
    Column("idle MiB", "idle_rss_megabytes", 1),
    Column("in flight", "in_flight_tasks", 0),
    Column("MiB then", "in_flight_rss_megabytes", 0),
    Column("lag p99 ms", "in_flight_lag_p99_milliseconds", 1),
    Column("steady lag p99 ms", "in_flight_steady_lag_p99_milliseconds", 1),
    Column("replay /s", "replay_events_per_second", 0),
    Column("check /s", "check_events_per_second", 0),
    Column("read+parse /s", "parse_events_per_second", 0),
    Column("B/task lean", "lean_bytes_per_task", 0),
)


def number(value: float | None, digits: int = 0) -> str:
    """Return a figure for people."""
    return MISSING if value is None else f"{value:,.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown whose columns line up."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(head))]
    padded = [
        "| "
        + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([padded[0], rule, *padded[1:]])


def anchor_ratio(contestant: Contestant, samples: Samples) -> float | None:
    """Return a contestant's drain to the raw anchor that was measured before it."""
    return samples.median(contestant.name, TO_ANCHOR)


def below_reference(contestant: Contestant, samples: Samples) -> bool | None:
    """Tell whether a peer does worse here than where the reference was measured."""
    found = anchor_ratio(contestant, samples)
    if found is None or contestant.reference_per_second is None:
        return None
    anchor = REFERENCE_ANCHORS[ANCHOR_OF[contestant.database]]
    return found < BELOW_REFERENCE * contestant.reference_per_second / anchor


def main_table(samples: Samples) -> str:
    """Return the medians of everybody, with ratios."""
    head = [
        "contestant",
        *(column.title for column in COLUMNS),
        "orchd PG ÷",
        "orchd SQLite ÷",
        "÷ raw anchor",
        "reps",
    ]
    return table(head, [_row(one, samples) for one in CONTESTANTS if _has(one, samples)])


def _has(contestant: Contestant, samples: Samples) -> bool:
    return contestant.name in samples.as_dict()


def _row(contestant: Contestant, samples: Samples) -> list[str]:
    name = contestant.name
    cells = [number(samples.median(name, c.metric), c.digits) for c in COLUMNS]
    drained = samples.median(name, DRAIN)
    ours = [samples.median(f"orchd-{database}", DRAIN) for database in (POSTGRESQL, SQLITE)]
    mark = " ⚠ low" if below_reference(contestant, samples) else ""
    return [
        contestant.title,
        *cells,
        *(number(ratio(one, drained), 2) for one in ours),
        number(anchor_ratio(contestant, samples), 2) + mark,
        str(len(samples.values(name, DRAIN))),
    ]


def cost_table(samples: Samples) -> str:
    """Return what only orchd was asked."""
    ours = [one for one in CONTESTANTS if one.kind == ORCHD and _has(one, samples)]
    return table(
        ["", *(column.title for column in COSTS)],
        [
            [
                one.title,
                *(number(samples.median(one.name, c.metric), c.digits) for c in COSTS),
            ]
            for one in ours
        ],
    )


def anchor_table(samples: Samples) -> str:
    """Return the raw anchors of this run beside the reference's."""
    rows = []
    for database, reference in REFERENCE_ANCHORS.items():
        values = samples.values(ANCHOR.format(database=database), LIFECYCLES)
        found = samples.median(ANCHOR.format(database=database), LIFECYCLES)
        spread = f"{min(values):,.0f} to {max(values):,.0f}" if values else MISSING
        rows.append([f"raw {database}", number(found), spread, number(reference)])
    return table(["hand-written SQL", "lives /s", "range", "in the reference"], rows)


def goal_table(samples: Samples) -> str:
    """Return every goal and whether it was reached."""
    said = {True: "reached", False: "NOT REACHED", None: "not measured"}
    return table(
        ["goal", "wanted", "found", ""],
        [
            [
                verdict.goal,
                verdict.wanted,
                f"{number(verdict.figure, 2)} {verdict.unit}",
                said[verdict.reached],
            ]
            for verdict in verdicts(samples)
        ],
    )


def text(samples: Samples, conditions: Mapping[str, Any]) -> str:
    """Return the whole report for people."""
    said = [f"{name}: {value}" for name, value in conditions.items()]
    parts = [
        "\n".join(said),
        anchor_table(samples),
        main_table(samples),
        cost_table(samples),
        goal_table(samples),
    ]
    if samples.failures:
        parts.append("Not measured:\n" + "\n".join(f"- {one}" for one in samples.failures))
    return "\n\n".join(parts)


def conditions(size: str, settings: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Return under what conditions a run was made."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "size": size,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "system": platform.platform(),
        **{f"settings of {kind}": dict(told) for kind, told in settings.items()},
    }


def save(samples: Samples, told: Mapping[str, Any], folder: Path) -> Path:
    """Write everything as JSON and as a page; return the JSON's path."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "conditions": dict(told),
        "contestants": {
            one.name: {"title": one.title, "kind": one.kind, "database": one.database}
            for one in CONTESTANTS
        },
        "samples": samples.as_dict(),
        "goals": [msgspec.structs.asdict(verdict) for verdict in verdicts(samples)],
        "failures": samples.failures,
    }
    path = folder / "comparison.json"
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    (folder / "comparison.md").write_text(text(samples, told) + "\n")
    return path
