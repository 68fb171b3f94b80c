"""The loads that every contestant gets, each on an empty state of its own."""

from __future__ import annotations

import time

from harness.line_process import ProcessFailed
from harness.samples import percentile
from harness.trials import Trial
from peers.protocol import NOOP, STAMP

POLL_SECONDS = 0.05
START_SECONDS = 60.0
SETTLE_SECONDS = 1.0
"""Between the first task of a worker and those whose latency counts."""
LATENCY_PER_SECOND = 20.0
LATE_SECONDS = 30.0


class NoProgress(Exception):
    """A load came to no figure; the text says why."""


def drain(trial: Trial, count: int, seconds_max: float) -> dict[str, float]:
    """Queue tasks, then start the worker; the rate is from the first to the last end."""
    before = trial.place.size_bytes()
    bulk = trial.enqueue(NOOP, count)
    worker = trial.start_worker()
    sights = watch(trial, count, seconds_max)
    rate = drained_per_second(sights)
    done, memory = sights[-1][1], worker.rss_megabytes()
    trial.close()
    return {
        "bulk_per_second": bulk.per_second,
        "drain_per_second": rate,
        "busy_rss_megabytes": memory,
        "bytes_per_task": (trial.place.size_bytes() - before) / done,
    }


def watch(
    trial: Trial, count: int, seconds_max: float, before: int = 0
) -> list[tuple[float, int]]:
    """Return when how many tasks were seen finished, until all are or the time is over.

    `before` is how many were finished when the worker started.
    """
    began = time.perf_counter()
    sights = [(began, before)]
    while sights[-1][1] < count and sights[-1][0] - began < seconds_max:
        if trial.worker is not None and not trial.worker.running:
            raise ProcessFailed(f"the worker ended: {trial.worker.last_words()}")
        time.sleep(POLL_SECONDS)
        done = max(sights[-1][1], trial.count_done())
        sights.append((time.perf_counter(), done))
    return sights


def drained_per_second(sights: list[tuple[float, int]]) -> float:
    """Return the rate between the first sight of finished tasks and the last new one.

    A queue that was empty at the first sight is counted from the start of the worker: too
    low a rate is an error that one sees, too high a rate is one that one believes.

    Raises:
        NoProgress: nothing was ever finished.
    """
    moving = [
        index for index in range(1, len(sights)) if sights[index][1] > sights[index - 1][1]
    ]
    if not moving:
        raise NoProgress(f"no task was finished in {sights[-1][0] - sights[0][0]:.0f} s")
    first, last = moving[0], moving[-1]
    if first == last:
        first = 0
    (began, before), (ended, done) = sights[first], sights[last]
    return (done - before) / (ended - began)


def latency(trial: Trial, count: int) -> dict[str, float]:
    """Submit 20 tasks a second to a worker with nothing else to do."""
    worker = trial.start_worker()
    _warm_up(trial)
    trial.pace(STAMP, count, LATENCY_PER_SECOND)
    if not worker.wait_for_records(count + 1, LATE_SECONDS):
        raise NoProgress(f"{len(worker.records()) - 1} of {count} tasks were started")
    waited = [1000 * record["waited_seconds"] for record in worker.records()[1:]]
    return {
        "latency_p50_milliseconds": percentile(waited, 0.5),
        "latency_p99_milliseconds": percentile(waited, 0.99),
    }


def _warm_up(trial: Trial) -> None:
    """Wait until the worker has started a first task."""
    assert trial.worker is not None
    worker = trial.worker
    trial.pace(STAMP, 1, LATENCY_PER_SECOND)
    if not worker.wait_for_records(1, START_SECONDS):
        raise NoProgress(f"no task was started: {worker.last_words()}")
    time.sleep(SETTLE_SECONDS)


def singles(trial: Trial, seconds: float) -> dict[str, float]:
    """Submit one task after the other, as one client, while nobody executes any."""
    return {"single_per_second": trial.singles(NOOP, seconds).per_second}


def cold(trial: Trial) -> dict[str, float]:
    """Return how long a worker takes from its start to the start of its first task."""
    trial.enqueue(STAMP, 1)
    trial.end_intake()
    began = time.perf_counter()
    worker = trial.start_worker()
    if not worker.wait_for_records(1, START_SECONDS):
        raise NoProgress(f"no task was started: {worker.last_words()}")
    return {"cold_seconds": time.perf_counter() - began}
