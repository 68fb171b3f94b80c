"""Who takes part, and what the reference measured of each.

`expected_per_second` only decides how long the queue is that a contestant drains, so that
everybody is measured for about as long.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from harness.environments import CannotSetUp, packages_of, python_of
from harness.orchd_trial import OrchdTrial
from harness.servers import POSTGRESQL, REDIS, REDIS_ALWAYS, SQLITE, Place
from harness.state import create_schema
from harness.trials import DriverTrial, Trial

ABSURD_SQL = "ORCHD_BENCH_ABSURD_SQL"
ORCHD = "orchd"
BOUND = "bound"
PEER = "peer"

OpenTrial = Callable[[Place, Path], Trial]


class Contestant(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who is measured.

    Attributes:
        name: in results and on the command line.
        title: for people, with version and configuration.
        kind: `orchd`, `bound` or `peer`.
        open: starts a trial on an empty state; raises `CannotSetUp`.
        reference_per_second: the drain that the reference measured, or None.
    """

    name: str
    title: str
    kind: str
    database: str
    expected_per_second: int
    open: OpenTrial
    reference_per_second: float | None = None


def _python_peer(folder: str, python: Callable[[], str]) -> OpenTrial:
    def start(place: Place, home: Path) -> Trial:
        return DriverTrial(place, [python(), "-m", f"peers.{folder}.driver"], {}, home)

    return start


def _own_environment(folder: str) -> OpenTrial:
    return _python_peer(folder, lambda: python_of(folder))


def _node_peer(folder: str) -> OpenTrial:
    def start(place: Place, home: Path) -> Trial:
        packages = packages_of(folder)
        driver = str(Path(__file__).parents[1] / "peers" / folder / "driver.mjs")
        return DriverTrial(place, ["node", driver], {"BENCH_PACKAGES": str(packages)}, home)

    return start


def _absurd(place: Place, home: Path) -> Trial:
    if not os.environ.get(ABSURD_SQL):
        raise CannotSetUp(f"its SQL is not in its package: name the file in ${ABSURD_SQL}")
    return _own_environment("absurd")(place, home)


def _bound(folder: str, python: Callable[[], str]) -> OpenTrial:
    start_driver = _python_peer(folder, python)

    def start(place: Place, home: Path) -> Trial:
        create_schema(place.url)
        return start_driver(place, home)

    return start


CONTESTANTS = (
    Contestant(
        name="orchd-postgresql",
        title="orchd, PostgreSQL",
        kind=ORCHD,
        database=POSTGRESQL,
        expected_per_second=4000,
        open=OrchdTrial,
    ),
    Contestant(
        name="orchd-sqlite",
        title="orchd, SQLite FULL",
        kind=ORCHD,
        database=SQLITE,
        expected_per_second=4000,
        open=OrchdTrial,
    ),
    Contestant(
        name="bound-postgresql",
        title="the fair bound, PostgreSQL",
        kind=BOUND,
        database=POSTGRESQL,
        expected_per_second=9000,
        open=_bound("bound_postgres", lambda: python_of("tools")),
    ),
    Contestant(
        name="bound-sqlite",
        title="the fair bound, SQLite FULL",
        kind=BOUND,
        database=SQLITE,
        expected_per_second=11000,
        open=_bound("bound_sqlite", lambda: sys.executable),
    ),
    Contestant(
        name="graphile-worker",
        title="graphile-worker 0.17.3, local queue, batched completion",
        kind=PEER,
        database=POSTGRESQL,
        expected_per_second=10000,
        open=_node_peer("graphile_worker"),
        reference_per_second=10574,
    ),
    Contestant(
        name="pgqueuer",
        title="PgQueuer 1.6.0, batches of 100, asyncpg",
        kind=PEER,
        database=POSTGRESQL,
        expected_per_second=4000,
        open=_own_environment("pgqueuer"),
        reference_per_second=3858,
    ),
    Contestant(
        name="dbos",
        title="DBOS 3.4.0, defaults",
        kind=PEER,
        database=POSTGRESQL,
        expected_per_second=400,
        open=_own_environment("dbos"),
        reference_per_second=502,
    ),
    Contestant(
        name="procrastinate",
        title="procrastinate 3.10.0",
        kind=PEER,
        database=POSTGRESQL,
        expected_per_second=150,
        open=_own_environment("procrastinate"),
        reference_per_second=135,
    ),
    Contestant(
        name="absurd",
        title="absurd-sdk 0.5.1",
        kind=PEER,
        database=POSTGRESQL,
        expected_per_second=260,
        open=_absurd,
        reference_per_second=260,
    ),
    Contestant(
        name="bullmq",
        title="BullMQ 6.7.0, Redis without sync",
        kind=PEER,
        database=REDIS,
        expected_per_second=6000,
        open=_node_peer("bullmq"),
        reference_per_second=6226,
    ),
    Contestant(
        name="bullmq-always",
        title="BullMQ 6.7.0, Redis appendfsync always",
        kind=PEER,
        database=REDIS_ALWAYS,
        expected_per_second=6000,
        open=_node_peer("bullmq"),
        reference_per_second=5830,
    ),
    Contestant(
        name="huey",
        title="huey 3.5.4, SQLite FULL, 2 threads",
        kind=PEER,
        database=SQLITE,
        expected_per_second=900,
        open=_own_environment("huey"),
        reference_per_second=861,
    ),
)

REFERENCE_ANCHORS = {POSTGRESQL: 8733.0, SQLITE: 18736.0}
"""Whole lives of tasks in hand-written SQL a second, when the peers were measured."""
ANCHOR_OF = {
    POSTGRESQL: POSTGRESQL,
    SQLITE: SQLITE,
    # Redis has no anchor of its own, and its peers are bound by the processor too.
    REDIS: POSTGRESQL,
    REDIS_ALWAYS: POSTGRESQL,
}
BELOW_REFERENCE = 0.8
"""A peer whose ratio to the anchor is less than this share of the reference's is marked."""


def by_name(name: str) -> Contestant:
    """Return a contestant; raises KeyError."""
    return {contestant.name: contestant for contestant in CONTESTANTS}[name]
