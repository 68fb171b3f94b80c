"""Counts again what table `counters` keeps: tasks by queue and status, events by type."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from orchd.ledger.claims import DEPTH_COUNTER
from orchd.maintenance.difference import Difference
from orchd.maintenance.reading import Snapshot

EVENT_COUNTER = "events/{type}"
_DEPTHS = "SELECT queue, status, count(*) FROM tasks GROUP BY queue, status"
_EVENTS = "SELECT type, count(*) FROM events GROUP BY type"
_STORED = "SELECT name, value FROM counters"


def recount(snapshot: Snapshot) -> dict[str, int]:
    """Return counter -> value as the tables say, without zeros."""
    depths = {
        DEPTH_COUNTER.format(queue=queue, status=status): count
        for queue, status, count in snapshot.all(_DEPTHS)
    }
    events = {
        EVENT_COUNTER.format(type=name): count for name, count in snapshot.all(_EVENTS)
    }
    return depths | events


def stored_counters(snapshot: Snapshot) -> dict[str, int]:
    """Return counter -> value as they are stored."""
    return {name: value for name, value in snapshot.all(_STORED)}


def corrections(differences: Iterable[Difference]) -> dict[str, int]:
    """Return what wrong rows of `tasks` add to or take from the counts of their queues."""
    changes: dict[str, int] = {}
    for difference in differences:
        if difference.table != "tasks" or difference.column:
            continue
        for row, delta in ((difference.stored, -1), (difference.expected, 1)):
            if row is not None:
                name = DEPTH_COUNTER.format(queue=row["queue"], status=row["status"])
                changes[name] = changes.get(name, 0) + delta
    return changes


def compare_counters(
    stored: Mapping[str, int], counted: Mapping[str, int]
) -> Iterator[Difference]:
    """Yield the counters that are wrong; a missing one stands for zero."""
    for name in sorted(stored.keys() | counted.keys()):
        value, expected = stored.get(name, 0), counted.get(name, 0)
        if value != expected:
            yield Difference(
                table="counters",
                row=name,
                column="value",
                stored=value,
                expected=expected,
            )
