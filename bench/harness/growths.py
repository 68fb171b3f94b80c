"""How orchd does as one thing grows while everything else stays the same."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from harness import loads, orchd_loads, replaying
from harness.line_process import LineProcess, ProcessFailed
from harness.orchd_trial import CONCURRENCY, OrchdTrial
from harness.paths import BENCH
from harness.roster import BOUND, by_name
from harness.servers import POSTGRESQL, SQLITE, Place, PostgresPlace, Servers
from harness.state import settle
from peers.protocol import NOOP

EVENTS_PER_TASK = 3
BOTH = (SQLITE, POSTGRESQL)
FILL_TASKS = 500_000
"""How many are asked for at once: an answer has its time, however slow the hour."""
FILL_SECONDS = 3600.0
START_SECONDS = 10.0
PAYLOAD_BYTES_TOTAL = 64 << 20
"""What all payloads of one measurement take at most."""

Values = dict[str, float]


class GrowthSizes(msgspec.Struct, frozen=True, kw_only=True):
    """How far everything grows."""

    log_events: tuple[int, ...]
    queue_tasks: tuple[int, ...]
    daemons: tuple[int, ...]
    in_flight_tasks: tuple[int, ...]
    payload_bytes: tuple[int, ...]
    round_trip_milliseconds: tuple[float, ...]
    drain_tasks: int
    seconds: float


GROWTH_SIZES = {
    "full": GrowthSizes(
        log_events=(10_000, 100_000, 300_000, 1_000_000),
        queue_tasks=(10_000, 30_000, 100_000, 1_000_000),
        daemons=(1, 2, 4, 8),
        in_flight_tasks=(100, 1_000, 3_000, 10_000),
        payload_bytes=(100, 1_000, 10_000, 100_000, 1_000_000),
        round_trip_milliseconds=(0, 0.25, 0.5, 1, 2),
        drain_tasks=10_000,
        seconds=20,
    ),
    "short": GrowthSizes(
        log_events=(10_000, 100_000),
        queue_tasks=(10_000, 100_000),
        daemons=(1, 2, 4),
        in_flight_tasks=(100, 1_000, 10_000),
        payload_bytes=(100, 10_000, 1_000_000),
        round_trip_milliseconds=(0, 1, 2),
        drain_tasks=4_000,
        seconds=10,
    ),
    "tiny": GrowthSizes(
        log_events=(300, 600),
        queue_tasks=(100, 200),
        daemons=(1, 2),
        in_flight_tasks=(10, 20),
        payload_bytes=(100, 1_000_000),
        round_trip_milliseconds=(0, 2),
        drain_tasks=200,
        seconds=1,
    ),
}


class Growths:
    """Measures orchd at one size of one thing.

    Args:
        folder: for homes and SQLite files; its path is short.
    """

    def __init__(self, sizes: GrowthSizes, servers: Servers, folder: Path) -> None:
        self._sizes = sizes
        self._servers = servers
        self._folder = folder

    def log(self, database: str, events: int) -> Values:
        """With a log that holds so many events already, all of finished tasks."""
        with self._place(database) as (place, home):
            tasks = events // EVENTS_PER_TASK
            self._fill(place, database, home, tasks, finish=True)
            settle(place.url)
            with self._orchd(place, home) as trial:
                told = self._drained(trial, self._sizes.drain_tasks, tasks)
            told |= replaying.once(place.url)
        return told

    def queue(self, database: str, waiting: int) -> Values:
        """With so many tasks waiting; drained for some seconds only."""
        with self._place(database) as (place, home):
            self._fill(place, database, home, waiting, finish=False)
            with self._orchd(place, home) as trial:
                began = time.perf_counter()
                trial.start_worker()
                if not trial.wait_until_done(1, loads.START_SECONDS):
                    raise loads.NoProgress("no task was finished")
                first = time.perf_counter() - began
                sights = loads.watch(trial, waiting, self._sizes.seconds)
                rate = loads.drained_per_second(sights)
        return {"drain_per_second": rate, "first_done_seconds": first}

    def daemons(self, database: str, count: int) -> Values:
        """With so many daemons on one database."""
        tasks = self._sizes.drain_tasks * 2
        with self._place(database) as (place, home), self._orchd(place, home) as trial:
            trial.enqueue(NOOP, tasks)
            for _ in range(count):
                trial.start_worker()
            sights = loads.watch(trial, tasks, loads.START_SECONDS + self._sizes.seconds)
            return {"drain_per_second": loads.drained_per_second(sights)}

    def in_flight(self, database: str, count: int) -> Values:
        """With so many async tasks at the same time in one daemon."""
        with self._place(database) as (place, home):
            with self._orchd(place, home, max(count, CONCURRENCY)) as trial:
                return orchd_loads.in_flight(trial, count, self._sizes.seconds)

    def payload(self, database: str, size_bytes: int) -> Values:
        """With payloads of such a size; the fewer tasks, the fewer at the same time."""
        most = max(20, PAYLOAD_BYTES_TOTAL // size_bytes)
        tasks = min(self._sizes.drain_tasks, most)
        concurrency = min(CONCURRENCY, max(4, tasks // 10))
        with self._place(database) as (place, home):
            with self._orchd(place, home, concurrency) as trial:
                bulk = trial.enqueue(NOOP, tasks, size_bytes)
                trial.start_worker()
                sights = loads.watch(trial, tasks, loads.START_SECONDS)
        return {
            "bulk_per_second": bulk.per_second,
            "drain_per_second": loads.drained_per_second(sights),
        }

    def round_trip(self, database: str, milliseconds: float) -> Values:
        """With a database that is so far away."""
        with self._place(database) as (place, home):
            with self._far_away(place, milliseconds / 1000, home) as far:
                with self._orchd(far, home) as trial:
                    told = self._drained(trial, self._sizes.drain_tasks, 0)
                with self._orchd(far, home) as trial:
                    return told | loads.latency(trial, round(20 * self._sizes.seconds / 4))

    # --- what they are made of --------------------------------------------------------

    def _drained(self, trial: OrchdTrial, tasks: int, before: int) -> Values:
        bulk = trial.enqueue(NOOP, tasks)
        began = time.perf_counter()
        trial.start_worker()
        sights = loads.watch(trial, before + tasks, loads.START_SECONDS, before)
        first = next((at for at, done in sights if done > before), began)
        return {
            "bulk_per_second": bulk.per_second,
            "drain_per_second": loads.drained_per_second(sights),
            "first_done_seconds": first - began,
        }

    def _fill(
        self, place: Place, database: str, home: Path, tasks: int, *, finish: bool
    ) -> None:
        """Write a state in the quickest way that there is: as the bound does."""
        trial = by_name(f"{BOUND}-{database}").open(place, home)
        try:
            for first in range(0, tasks, FILL_TASKS):
                trial.enqueue(NOOP, min(FILL_TASKS, tasks - first))
            if finish:
                trial.start_worker()
                loads.watch(trial, tasks, FILL_SECONDS)
        finally:
            trial.close()

    @contextmanager
    def _place(self, database: str) -> Iterator[tuple[Place, Path]]:
        with tempfile.TemporaryDirectory(dir=self._folder, prefix="g") as home:
            with self._servers.place(database) as place:
                yield place, Path(home)

    @contextmanager
    def _orchd(
        self, place: Place, home: Path, concurrency: int = CONCURRENCY
    ) -> Iterator[OrchdTrial]:
        with tempfile.TemporaryDirectory(dir=home, prefix="o") as folder:
            trial = OrchdTrial(place, Path(folder), concurrency)
            try:
                yield trial
            finally:
                trial.close()

    @contextmanager
    def _far_away(self, place: Place, seconds: float, home: Path) -> Iterator[Place]:
        address = urlsplit(place.url)
        proxy = LineProcess(
            [
                *(sys.executable, "-m", "harness.delay_proxy"),
                *(str(address.hostname), str(address.port), str(seconds)),
            ],
            environment=os.environ | {"PYTHONPATH": str(BENCH)},
            folder=home,
            errors=home / "proxy.err",
        )
        try:
            if not proxy.wait_for_records(1, START_SECONDS):
                raise ProcessFailed(f"no proxy: {proxy.last_words()}")
            port = proxy.records()[0]["port"]
            netloc = f"{address.username}@{address.hostname}:{port}"
            yield PostgresPlace(address._replace(netloc=netloc).geturl())
        finally:
            proxy.kill()


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that grows.

    Attributes:
        name: the field of `GrowthSizes` without its unit, and the method of `Growths`.
    """

    name: str
    title: str
    unit: str
    field: str
    databases: tuple[str, ...] = BOTH
    logarithmic: bool = True


GROWTHS = (
    Growth(name="log", title="A log that grows", unit="events", field="log_events"),
    Growth(name="queue", title="A queue that grows", unit="tasks", field="queue_tasks"),
    Growth(
        name="daemons",
        title="More daemons on one database",
        unit="daemons",
        field="daemons",
        databases=(POSTGRESQL,),
        logarithmic=False,
    ),
    Growth(
        name="in_flight",
        title="More tasks in flight in one daemon",
        unit="tasks",
        field="in_flight_tasks",
    ),
    Growth(name="payload", title="Payloads that grow", unit="bytes", field="payload_bytes"),
    Growth(
        name="round_trip",
        title="A database that is farther away",
        unit="milliseconds of round trip",
        field="round_trip_milliseconds",
        databases=(POSTGRESQL,),
        logarithmic=False,
    ),
)
