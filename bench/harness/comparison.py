"""One run: repetitions in which everybody takes turns, and then what only orchd is asked.

Contestants start in another order each time, and before each of them the raw anchor of its
database is measured, so that a machine that changes its pace does so for all.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness import lean, loads, orchd_loads, replaying
from harness.environments import CannotSetUp, python_of
from harness.line_process import ProcessFailed, run_once
from harness.orchd_trial import OrchdTrial
from harness.paths import BENCH
from harness.progress import Progress
from harness.roster import ANCHOR_OF, BOUND, ORCHD, Contestant
from harness.samples import Samples
from harness.servers import POSTGRESQL, SQLITE, Place, Servers
from harness.sizes import Sizes
from harness.trials import Trial
from orchd.config.settings import WorkerSettings

RAW, DRAIN, LATENCY, SINGLES = "raw", "drain", "latency", "singles"
COLD, HTTP, FLIGHT, IDLE, REPLAY = "cold", "http", "in-flight", "idle", "replay"
LOADS = (RAW, DRAIN, LATENCY, SINGLES, COLD, HTTP, FLIGHT, IDLE, REPLAY)
ANCHOR = "raw-{database}"
TO_ANCHOR = "drain_to_raw_anchor"
"""A drain, divided by the anchor that was measured just before it."""
ANCHORS = {POSTGRESQL: "peers.anchors.postgres", SQLITE: "peers.anchors.sqlite"}

Step = tuple[str, str, Callable[[], Mapping[str, float]]]
"""Who, what, and the work that measures it."""


class Comparison:
    """Measures contestants side by side.

    Args:
        folder: for homes and SQLite files; its path is short.
        wanted: the loads that are measured.
    """

    def __init__(
        self,
        contestants: Sequence[Contestant],
        sizes: Sizes,
        servers: Servers,
        folder: Path,
        progress: Progress,
        wanted: Collection[str] = LOADS,
    ) -> None:
        self._contestants = list(contestants)
        self._sizes = sizes
        self._servers = servers
        self._folder = folder
        self._progress = progress
        self._wanted = wanted
        self._lean: set[str] = set()
        self._pace: dict[str, float] = {}
        """What the raw anchor of a database last came to."""
        self.samples = Samples()

    def run(self) -> Samples:
        """Measure everything, and return it."""
        self._leave_out()
        steps = [
            step for turn in range(self._sizes.repetitions) for step in self._turn(turn)
        ]
        steps += self._only_orchd()
        steps = [step for step in steps if step[1] in self._wanted]
        self._progress.begin(len(steps))
        for step in steps:
            self._take(step)
        return self.samples

    def _leave_out(self) -> None:
        """Open every other one once, so that all is set up before anything is measured."""
        for contestant in [one for one in self._contestants if one.kind != ORCHD]:
            self._progress.say(f"setting up {contestant.title}")
            try:
                with self._trial(contestant):
                    pass
            except (CannotSetUp, ProcessFailed) as error:
                self._contestants.remove(contestant)
                self.samples.fail(contestant.name, "left out", str(error))
                self._progress.say(f"left out {contestant.name}: {error}")

    def _take(self, step: Step) -> None:
        name, load, work = step
        try:
            values = work()
        except (ProcessFailed, loads.NoProgress, replaying.NotEmpty, OSError) as error:
            self.samples.fail(name, load, str(error))
            self._progress.step(name, load, f"failed: {error}")
            return
        self.samples.add(name, values)
        told = ", ".join(f"{metric} {value:,.1f}" for metric, value in values.items())
        self._progress.step(name, load, told)

    # --- the turns of a repetition ----------------------------------------------------

    def _turn(self, turn: int) -> Iterator[Step]:
        first = turn % max(1, len(self._contestants))
        for contestant in self._contestants[first:] + self._contestants[:first]:
            database = ANCHOR_OF[contestant.database]
            yield ANCHOR.format(database=database), RAW, self._anchor(database)
            yield from self._loads_of(contestant)

    def _anchor(self, database: str) -> Callable[[], Mapping[str, float]]:
        def measure() -> Mapping[str, float]:
            python = python_of("tools") if database == POSTGRESQL else sys.executable
            with self._servers.place(database) as place, self._home() as home:
                told = run_once(
                    [python, "-m", ANCHORS[database], str(self._sizes.anchor_seconds)],
                    environment=os.environ
                    | {"PYTHONPATH": str(BENCH), "BENCH_URL": place.url},
                    folder=home,
                    errors=home / "anchor.err",
                )
            rate = told["count"] / told["seconds"]
            self._pace[database] = rate
            return {"lifecycles_per_second": rate}

        return measure

    def _loads_of(self, contestant: Contestant) -> Iterator[Step]:
        name, sizes = contestant.name, self._sizes
        yield name, DRAIN, lambda: self._drain(contestant)
        if contestant.kind == BOUND:
            return

        def on(work: Callable[[Trial], dict[str, float]]) -> Callable[[], dict[str, float]]:
            def measure() -> dict[str, float]:
                with self._trial(contestant) as (trial, _):
                    return work(trial)

            return measure

        yield name, LATENCY, on(lambda trial: loads.latency(trial, sizes.latency_tasks))
        yield name, SINGLES, on(lambda trial: loads.singles(trial, sizes.single_seconds))
        yield name, COLD, on(loads.cold)
        if contestant.kind == ORCHD:
            yield name, HTTP, lambda: self._http(contestant)

    def _drain(self, contestant: Contestant) -> dict[str, float]:
        sizes = self._sizes
        count = sizes.drain_tasks(contestant.expected_per_second)
        with self._trial(contestant) as (trial, _):
            told = loads.drain(trial, count, sizes.drain_seconds_max)
            pace = self._pace.get(ANCHOR_OF[contestant.database])
            if pace:
                told[TO_ANCHOR] = told["drain_per_second"] / pace
            if contestant.kind == ORCHD and contestant.name not in self._lean:
                self._lean.add(contestant.name)
                told["lean_bytes_per_task"] = self._lean_bytes(contestant, trial.place)
        return told

    def _lean_bytes(self, contestant: Contestant, source: Place) -> float:
        with self._servers.place(contestant.database) as target:
            return lean.bytes_per_task(source.url, target, contestant.database)

    def _http(self, contestant: Contestant) -> dict[str, float]:
        sizes = self._sizes
        with self._trial(contestant) as (trial, home):
            assert isinstance(trial, OrchdTrial)
            return orchd_loads.http(trial, home, sizes.http_clients, sizes.http_seconds)

    # --- what only orchd is asked, once -----------------------------------------------

    def _only_orchd(self) -> Iterator[Step]:
        for contestant in self._contestants:
            if contestant.kind == ORCHD:
                yield from self._costs_of(contestant)

    def _costs_of(self, contestant: Contestant) -> Iterator[Step]:
        name, sizes = contestant.name, self._sizes

        def fly() -> dict[str, float]:
            with self._orchd_trial(contestant, sizes.in_flight_tasks) as trial:
                return orchd_loads.in_flight(
                    trial, sizes.in_flight_tasks, sizes.in_flight_seconds
                )

        def rest() -> dict[str, float]:
            with self._orchd_trial(contestant, WorkerSettings().concurrency) as trial:
                return orchd_loads.idle(
                    trial,
                    sizes.idle_finished_tasks,
                    sizes.idle_delayed_tasks,
                    sizes.idle_seconds,
                )

        yield name, FLIGHT, fly
        yield name, IDLE, rest
        yield name, REPLAY, lambda: self._replay(contestant)

    def _replay(self, contestant: Contestant) -> dict[str, float]:
        with self._servers.place(contestant.database) as place:
            *told, last = replaying.replay(
                place.url, self._sizes.replay_tasks, self._sizes.repetitions
            )
        for values in told:
            self.samples.add(contestant.name, values)
        return last

    # --- states -----------------------------------------------------------------------

    @contextmanager
    def _home(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self._folder, prefix="h") as folder:
            yield Path(folder)

    @contextmanager
    def _orchd_trial(
        self, contestant: Contestant, concurrency: int
    ) -> Iterator[OrchdTrial]:
        with self._home() as home, self._servers.place(contestant.database) as place:
            trial = OrchdTrial(place, home, concurrency)
            try:
                yield trial
            finally:
                trial.close()

    @contextmanager
    def _trial(self, contestant: Contestant) -> Iterator[tuple[Trial, Path]]:
        """Open a trial on an empty state; it has ended when the block is left."""
        with self._home() as home, self._servers.place(contestant.database) as place:
            trial = contestant.open(place, home)
            try:
                yield trial, home
            finally:
                trial.close()
