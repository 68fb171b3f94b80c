"""A trial of orchd: `orchd serve`, its client library and its HTTP API, as users have them.

Tasks are submitted to a daemon that serves a queue which nobody uses; then it is stopped
and the one that is measured starts, so that a whole queue waits for it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from harness.line_process import LineProcess, until
from harness.paths import BENCH
from harness.servers import Place
from harness.state import Counts, create_schema
from harness.trials import Done, Trial
from orchd import Client
from peers.protocol import CHUNK_TASKS, payload
from support.daemons import READY_MARK, TOKEN, Installation

CONCURRENCY = 1000
START_SECONDS = 60.0
SETTINGS = """
[worker]
concurrency = {concurrency}
queues = ["{queue}"]
[tasks]
executor = "noop"
[executors.noop]
type = "python"
target = "harness.executors:noop"
[executors.stamp]
type = "python"
target = "harness.executors:stamp"
[executors.sleep]
type = "python"
target = "harness.executors:sleep"
"""


class Daemon:
    """A running `orchd serve`."""

    def __init__(self, home: Path, url: str, queue: str, concurrency: int) -> None:
        home.mkdir()
        settings = SETTINGS.format(queue=queue, concurrency=concurrency)
        installed = Installation(home, url, settings)
        source = os.pathsep.join([str(BENCH), os.environ.get("PYTHONPATH", "")])
        self.process = LineProcess(
            installed.command("serve"),
            environment=installed.environment | {"PYTHONPATH": source.rstrip(os.pathsep)},
            folder=home,
            errors=home / "daemon.err",
        )

    def address(self) -> str:
        """Return where it listens, as soon as it does."""
        line = self.process.wait_for_line(READY_MARK, START_SECONDS)
        return line.split()[-1]

    def client(self) -> Client:
        """Return a client of the daemon."""
        return Client(self.address(), TOKEN)


class OrchdTrial(Trial):
    """orchd on an empty state.

    Args:
        folder: for its homes; its path is short enough for sockets.
    """

    def __init__(self, place: Place, folder: Path, concurrency: int = CONCURRENCY) -> None:
        super().__init__(place)
        create_schema(place.url)
        self._folder = folder
        self._concurrency = concurrency
        self._daemons: list[Daemon] = []
        self._intake: Daemon | None = None
        self._served: Daemon | None = None
        self._counts = Counts(place.url)

    def _start(self, queue: str) -> Daemon:
        home = self._folder / f"home{len(self._daemons)}"
        daemon = Daemon(home, self.place.url, queue, self._concurrency)
        self._daemons.append(daemon)
        return daemon

    def intake(self) -> Daemon:
        """Return the daemon that takes submissions and executes none of them."""
        if self._intake is None:
            self._intake = self._start("nobody")
            self._intake.address()
        return self._intake

    def enqueue(self, kind: str, count: int, size_bytes: int = 0) -> Done:
        return self.enqueue_payloads(kind, [payload(n, size_bytes) for n in range(count)])

    def enqueue_payloads(self, kind: str, payloads: list[dict[str, object]]) -> Done:
        """Submit tasks in chunks, by `Client.submit_many`."""
        return self._submit(
            [{"description": kind, "executor": kind, "payload": one} for one in payloads]
        )

    def delay(self, kind: str, count: int) -> Done:
        """Submit tasks for a time beyond the trial."""
        task: dict[str, object] = {"description": kind, "executor": kind, "delay": "1d"}
        return self._submit([task] * count)

    def _submit(self, tasks: list[dict[str, object]]) -> Done:
        with self.intake().client() as client:
            began = time.perf_counter()
            for first in range(0, len(tasks), CHUNK_TASKS):
                for made in client.submit_many(tasks[first : first + CHUNK_TASKS]):
                    assert made["outcome"] == "created", made
            return Done(len(tasks), time.perf_counter() - began)

    def singles(self, kind: str, seconds: float) -> Done:
        with self.intake().client() as client:
            began, count = time.perf_counter(), 0
            while time.perf_counter() - began < seconds:
                client.submit(kind, executor=kind, payload=payload(count))
                count += 1
            return Done(count, time.perf_counter() - began)

    def pace(self, kind: str, count: int, per_second: float) -> Done:
        assert self._served is not None
        with self._served.client() as client:
            began = time.perf_counter()
            for number in range(count):
                client.submit(kind, executor=kind, payload=payload(number))
                due = began + (number + 1) / per_second
                time.sleep(max(0.0, due - time.perf_counter()))
            return Done(count, time.perf_counter() - began)

    def end_intake(self) -> None:
        if self._intake is not None:
            self._intake.process.terminate()
            self._intake = None

    def start_worker(self) -> LineProcess:
        self.end_intake()
        self._served = self._start("*")
        self.worker = self._served.process
        return self.worker

    def address(self) -> str:
        """Return where the daemon listens that executes tasks."""
        assert self._served is not None
        return self._served.address()

    def count_done(self) -> int:
        return self._counts.get("queue/default/completed")

    def count_running(self) -> int:
        """Return how many tasks are in flight, as the log tells it."""
        return self._counts.get("queue/default/in_progress")

    def wait_until_done(self, count: int, seconds: float) -> bool:
        """Wait until so many tasks are finished."""
        return until(lambda: self.count_done() >= count, seconds, 0.05)

    def close(self) -> None:
        for daemon in self._daemons:
            daemon.process.terminate()
        self._counts.close()
