"""What is seen of a daemon while it works: a line every few seconds, kept as CSV."""

from __future__ import annotations

import csv
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from soak.page import Page, finished

BYTES_PER_MB = 1_000_000


class Sample(NamedTuple):
    """One look at the daemon."""

    seconds: float
    """Since the first look."""
    tasks: int
    """How many runs it had ended."""
    resident_mb: float
    """Megabytes (10^6 bytes) of its memory that are in use."""
    descriptors: int
    asyncio_tasks: int


class Sampler:
    """Looks at a daemon at an interval, in a thread of its own."""

    def __init__(self, url: str, pid: int, interval_seconds: float) -> None:
        self._page = Page(url)
        self._process = psutil.Process(pid)
        self._interval_seconds = interval_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="sampler", daemon=True)
        self._failure: Exception | None = None
        self._began = time.monotonic()
        self.samples: list[Sample] = []

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, after a last look; raises what kept it from looking."""
        self._stopped.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        self.samples.append(self.look())
        self._page.close()

    def _go_on(self) -> None:
        try:
            while not self._stopped.wait(self._interval_seconds):
                self.samples.append(self.look())
        except Exception as error:
            self._failure = error

    def look(self) -> Sample:
        """Return how the daemon stands."""
        found = self._page.read()
        return Sample(
            seconds=round(time.monotonic() - self._began, 3),
            tasks=finished(found),
            resident_mb=round(self._process.memory_info().rss / BYTES_PER_MB, 3),
            descriptors=self._process.num_fds(),
            asyncio_tasks=round(found["orchd_asyncio_tasks"]),
        )


def write(path: Path, samples: Sequence[Sample]) -> None:
    """Write samples as CSV with a head line."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Sample._fields)
        writer.writerows(samples)
