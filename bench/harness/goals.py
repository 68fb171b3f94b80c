"""The goals that orchd is held to, each a comparison of two medians of the same run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from harness.roster import BOUND, CONTESTANTS, PEER, Contestant
from harness.samples import Samples, ratio
from harness.servers import POSTGRESQL, SQLITE

ORCHD_PG = "orchd-postgresql"
ORCHD_SQLITE = "orchd-sqlite"
Find = Callable[[Samples], float | None]


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """A goal.

    Attributes:
        text: what is compared with what.
        bound: the least (or, with `at_most`, the most) that reaches the goal.
        unit: `times` for a ratio, or a unit of measurement.
        find: returns the figure, or None when something was not measured.
    """

    text: str
    bound: float
    unit: str
    find: Find
    at_most: bool = False


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a goal; `reached` is None when it was not measured."""

    goal: str
    wanted: str
    figure: float | None
    unit: str
    reached: bool | None


def verdicts(samples: Samples) -> list[Verdict]:
    """Return what became of every goal."""
    return [_verdict(goal, samples) for goal in GOALS]


def _verdict(goal: Goal, samples: Samples) -> Verdict:
    figure = goal.find(samples)
    reached = None
    if figure is not None:
        reached = figure <= goal.bound if goal.at_most else figure >= goal.bound
    sign = "≤" if goal.at_most else "≥"
    return Verdict(
        goal=goal.text,
        wanted=f"{sign} {goal.bound:g} {goal.unit}",
        figure=figure,
        unit=goal.unit,
        reached=reached,
    )


# --- how figures are found --------------------------------------------------------------


def figure(name: str, metric: str) -> Find:
    """Return the median of a metric."""
    return lambda samples: samples.median(name, metric)


def times(one: Find, other: Find) -> Find:
    """Return how many times the other the one is."""
    return lambda samples: ratio(one(samples), other(samples))


def most(metric: str, among: Callable[[Contestant], bool]) -> Find:
    """Return the best peer's median where more is better."""
    return lambda samples: max(_known(samples, metric, among), default=None)


def least(metric: str, among: Callable[[Contestant], bool]) -> Find:
    """Return the best peer's median where less is better."""
    return lambda samples: min(_known(samples, metric, among), default=None)


def _known(
    samples: Samples, metric: str, among: Callable[[Contestant], bool]
) -> Iterator[float]:
    for contestant in CONTESTANTS:
        value = samples.median(contestant.name, metric)
        if value is not None and contestant.kind == PEER and among(contestant):
            yield value


def _on(database: str) -> Callable[[Contestant], bool]:
    return lambda contestant: contestant.database == database


def _python_on_postgres(contestant: Contestant) -> bool:
    return contestant.database == POSTGRESQL and contestant.name != "graphile-worker"


# --- the goals --------------------------------------------------------------------------

DRAIN, BULK, COLD = "drain_per_second", "bulk_per_second", "cold_seconds"
P50, P99 = "latency_p50_milliseconds", "latency_p99_milliseconds"


def _drains() -> Iterator[Goal]:
    peers = (
        (ORCHD_PG, "graphile-worker", 1.0),
        (ORCHD_PG, "pgqueuer", 2.5),
        (ORCHD_PG, "dbos", 15.0),
        (ORCHD_PG, "procrastinate", 30.0),
        (ORCHD_PG, "absurd", 30.0),
        (ORCHD_SQLITE, "bullmq", 1.5),
        (ORCHD_SQLITE, "huey", 8.0),
        (ORCHD_PG, f"{BOUND}-postgresql", 0.7),
        (ORCHD_SQLITE, f"{BOUND}-sqlite", 0.7),
    )
    for name, other, bound in peers:
        yield Goal(
            text=f"drain of {name} to {other}",
            bound=bound,
            unit="times",
            find=times(figure(name, DRAIN), figure(other, DRAIN)),
        )


def _submissions() -> Iterator[Goal]:
    yield Goal(
        text="bulk submission on PostgreSQL to the fastest peer's there",
        bound=1.5,
        unit="times",
        find=times(figure(ORCHD_PG, BULK), most(BULK, _on(POSTGRESQL))),
    )
    for name, database in ((ORCHD_PG, POSTGRESQL), (ORCHD_SQLITE, SQLITE)):
        peers = most("single_per_second", _on(database))
        yield Goal(
            text=f"HTTP with many clients of {name} to the fastest peer one by one",
            bound=3.0,
            unit="times",
            find=times(figure(name, "http_per_second"), peers),
        )


def _latencies() -> Iterator[Goal]:
    for metric, title in ((P50, "p50"), (P99, "p99")):
        for name, database in ((ORCHD_PG, POSTGRESQL), (ORCHD_SQLITE, SQLITE)):
            yield Goal(
                text=f"latency {title} of {name} to the best peer's there",
                bound=1.0,
                unit="times",
                find=times(figure(name, metric), least(metric, _on(database))),
                at_most=True,
            )
    yield Goal(
        text="start to first task on PostgreSQL to the fastest Python peer's there",
        bound=1.0,
        unit="times",
        find=times(figure(ORCHD_PG, COLD), least(COLD, _python_on_postgres)),
        at_most=True,
    )


def _costs() -> Iterator[Goal]:
    limits = (
        ("idle_cpu_percent", "processor when idle", 0.3, "% of a core"),
        ("idle_rss_megabytes", "memory when idle", 60.0, "MiB"),
        ("in_flight_rss_megabytes", "memory with all in flight", 250.0, "MiB"),
        ("in_flight_lag_p99_milliseconds", "lag p99 of the loop, in flight", 50.0, "ms"),
    )
    for name in (ORCHD_PG, ORCHD_SQLITE):
        for metric, text, bound, unit in limits:
            yield Goal(
                text=f"{text}, {name}",
                bound=bound,
                unit=unit,
                find=figure(name, metric),
                at_most=True,
            )
        replayed = figure(name, "replay_events_per_second")
        yield Goal(
            text=f"replay to reading and parsing the same rows, {name}",
            bound=0.7,
            unit="times",
            find=times(replayed, figure(name, "parse_events_per_second")),
        )
        stored = figure(name, "bytes_per_task")
        yield Goal(
            text=f"storage to the same events in hand-written tables, {name}",
            bound=1.2,
            unit="times",
            find=times(stored, figure(name, "lean_bytes_per_task")),
            at_most=True,
        )


def _all() -> Iterable[Goal]:
    for part in (_drains, _submissions, _latencies, _costs):
        yield from part()


GOALS = tuple(_all())
