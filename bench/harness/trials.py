"""One contestant on one empty state: what every load is made of.

A trial submits, starts the worker and counts, whoever the contestant is. What it started
has ended when its block is left.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from harness.line_process import LineProcess, Record
from harness.paths import BENCH
from harness.servers import Place


class Done(NamedTuple):
    """How many submissions took how long."""

    tasks: int
    seconds: float

    @property
    def per_second(self) -> float:
        """The rate."""
        return self.tasks / self.seconds


def done_of(record: Record) -> Done:
    """Return what a driver told of its submissions."""
    return Done(int(record["count"]), float(record["seconds"]))


class Trial(ABC):
    """A contestant on an empty state.

    Attributes:
        place: that state.
        worker: the process that executes tasks, once it was started.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.worker: LineProcess | None = None

    @abstractmethod
    def enqueue(self, kind: str, count: int, size_bytes: int = 0) -> Done:
        """Submit tasks in chunks, in the quickest way that there is."""

    @abstractmethod
    def singles(self, kind: str, seconds: float) -> Done:
        """Submit one task after the other, as one client."""

    @abstractmethod
    def pace(self, kind: str, count: int, per_second: float) -> Done:
        """Submit at a steady rate to a worker that runs."""

    def end_intake(self) -> None:  # noqa: B027  # most have none
        """Stop what only takes submissions, before a start is timed; idempotent."""

    @abstractmethod
    def start_worker(self) -> LineProcess:
        """Start what executes tasks, and return at once."""

    @abstractmethod
    def count_done(self) -> int:
        """Return how many tasks are finished."""

    @abstractmethod
    def close(self) -> None:
        """End everything that the trial started."""


class DriverTrial(Trial):
    """A trial of a peer, through its driver.

    Args:
        command: starts the driver, without its role.
        variables: further variables of its environment.
        folder: for what it leaves behind.
    """

    def __init__(
        self, place: Place, command: list[str], variables: Mapping[str, str], folder: Path
    ) -> None:
        super().__init__(place)
        self._command = command
        self._folder = folder
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PYTHON")},
            "PYTHONPATH": str(BENCH),
            "BENCH_URL": place.url,
            **variables,
        }
        preparing = self._start("client")
        preparing.ask("set_up")
        preparing.terminate()
        self._client = self._start("client")
        self._client.ask("open")

    def _start(self, role: str) -> LineProcess:
        return LineProcess(
            [*self._command, role],
            environment=self._environment,
            folder=self._folder,
            errors=self._folder / f"{role}.err",
        )

    def enqueue(self, kind: str, count: int, size_bytes: int = 0) -> Done:
        return done_of(
            self._client.ask("enqueue", kind=kind, count=count, size_bytes=size_bytes)
        )

    def singles(self, kind: str, seconds: float) -> Done:
        return done_of(self._client.ask("singles", kind=kind, seconds=seconds))

    def pace(self, kind: str, count: int, per_second: float) -> Done:
        asked = {"kind": kind, "count": count, "per_second": per_second}
        return done_of(self._client.ask("pace", **asked))

    def start_worker(self) -> LineProcess:
        self.worker = self._start("worker")
        return self.worker

    def count_done(self) -> int:
        return int(self._client.ask("count_done")["done"])

    def close(self) -> None:
        if self.worker is not None:
            self.worker.kill()
        self._client.kill()
