"""The loads that only orchd gets, because its goals name figures instead of peers."""

from __future__ import annotations

import os
import sys
import threading
import time
import urllib.request
from pathlib import Path

from harness.line_process import LineProcess, Record, run_once
from harness.loads import NoProgress
from harness.orchd_trial import OrchdTrial
from harness.paths import BENCH
from harness.samples import percentile
from harness.trials import Done, done_of
from peers.protocol import payload
from support.daemons import TOKEN

SAMPLE_SECONDS = 0.1
FLIGHT_SECONDS_MAX = 120.0
SETTLE_SECONDS = 5.0
SCRAPE_SECONDS = 15.0


def http(trial: OrchdTrial, folder: Path, clients: int, seconds: float) -> dict[str, float]:
    """Let many clients submit single tasks over HTTP at the same time."""
    done = submit_over_http(trial.intake().address(), folder, clients, seconds)
    return {"http_per_second": done.per_second}


def submit_over_http(address: str, folder: Path, clients: int, seconds: float) -> Done:
    """Let many clients submit to a server, from a process of their own."""
    command = [sys.executable, "-m", "harness.http_load", address, TOKEN]
    paths = [str(BENCH), str(BENCH.parent / "tests"), os.environ.get("PYTHONPATH", "")]
    told = run_once(
        [*command, str(clients), str(seconds)],
        environment=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        folder=folder,
        errors=folder / "http.err",
    )
    return done_of(told)


def in_flight(trial: OrchdTrial, count: int, seconds: float) -> dict[str, float]:
    """Keep many async tasks in flight in one daemon: its memory, and its loop's lag.

    The lag counts from the first start to the last end, so it includes both rushes;
    `steady` is the time in which all were in flight.
    """
    given = [{**payload(number), "seconds": seconds} for number in range(count)]
    trial.enqueue_payloads("sleep", given)
    worker = trial.start_worker()
    trial.address()
    with MemoryWatch(worker) as memory:
        if not trial.wait_until_done(count, FLIGHT_SECONDS_MAX + seconds):
            raise NoProgress(f"{trial.count_done()} of {count} tasks were finished")
    records = worker.records()
    most = max((record["sleeping"] for record in records), default=0)
    return {
        "in_flight_tasks": float(most),
        "in_flight_rss_megabytes": memory.most,
        "in_flight_lag_p99_milliseconds": _lag(records),
        "in_flight_steady_lag_p99_milliseconds": _lag(
            [record for record in records if record["sleeping"] == most]
        ),
    }


def idle(
    trial: OrchdTrial, finished: int, delayed: int, seconds: float
) -> dict[str, float]:
    """Return what a daemon costs that has nothing to do but to be scraped.

    Its log holds finished tasks, and others wait for a time that does not come.
    """
    trial.enqueue("echo", finished)
    trial.delay("echo", delayed)
    worker = trial.start_worker()
    address = trial.address()
    if not trial.wait_until_done(finished, FLIGHT_SECONDS_MAX):
        raise NoProgress(f"{trial.count_done()} of {finished} tasks were finished")
    time.sleep(min(SETTLE_SECONDS, seconds))
    used, began = worker.cpu_seconds(), time.perf_counter()
    while (left := began + seconds - time.perf_counter()) > 0:
        with urllib.request.urlopen(f"{address}/metrics", timeout=SCRAPE_SECONDS) as page:
            page.read()
        time.sleep(min(SCRAPE_SECONDS, left))
    spent = worker.cpu_seconds() - used
    return {
        "idle_cpu_percent": 100 * spent / (time.perf_counter() - began),
        "idle_rss_megabytes": worker.rss_megabytes(),
    }


def _lag(records: list[Record]) -> float:
    late = [1000 * seconds for record in records for seconds in record["late_seconds"]]
    if not late:
        raise NoProgress("the loop told nothing of its lag")
    return percentile(late, 0.99)


class MemoryWatch:
    """Notes the most memory that a process and its children ever take."""

    def __init__(self, process: LineProcess) -> None:
        self.most = 0.0
        self._process = process
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.most = max(self.most, self._process.rss_megabytes())

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
