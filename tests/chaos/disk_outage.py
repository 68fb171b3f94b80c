"""What a daemon goes through when its disk fails for a while, and after.

Run as a program, because the small disk is seen only by the processes that are started
for it: `python -m chaos.disk_outage SCENARIO HOME`. Ends with 1 and says what was wrong.
"""

from __future__ import annotations

import functools
import random
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from chaos.checks import require_all
from chaos.disk_faults import FailingCalls, Fault, FullDisk, is_small_disk
from chaos.fleet import Daemon, Fleet, fleet, wait_until
from chaos.job import Job, Order, healthy
from chaos.metrics import metric_faults
from chaos.sizes import duration_seconds, size
from orchd.client import Unavailable

OUTAGE_SECONDS = duration_seconds("OUTAGE", small=4, full=60)
KILLS = size("KILLS", small=2, full=50)
KILL_SECONDS_MAX = 3.0
LEASE_SECONDS = 3
NOTICE_SECONDS = 30.0
RESUME_SECONDS = 10.0
PAUSE_SECONDS = 0.2
LOAD_PAUSE_SECONDS = 0.05
LONG_PAUSE_SECONDS = 0.5
"""Between submissions that go on for minutes: what is finished stays on the small disk."""
LINES_MAX = 20
"""Lines in the log of a daemon whose disk fails, beside two a second."""
TOML = f"""
[worker]
concurrency = 16
lease = "{LEASE_SECONDS}s"
[retry]
max_crashes = 100
"""
CANNOT_START = 69
SAID_ROOM = re.compile("full|No space left")
NO_ROOM = functools.partial(FailingCalls, "pwrite64", "ENOSPC")


class Load:
    """Hands in small tasks, with short pauses, until it is told to stop."""

    def __init__(self, job: Job, pause_seconds: float = LOAD_PAUSE_SECONDS) -> None:
        self._job = job
        self._pause_seconds = pause_seconds
        self._stopped = threading.Event()
        self._failures: list[BaseException] = []

    @contextmanager
    def in_background(self) -> Iterator[None]:
        """Go on while the block lasts; what was handed in is acknowledged at its end."""
        thread = threading.Thread(target=self._work, name="load", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join(60)
        assert not thread.is_alive(), "the load was not taken"
        if self._failures:
            raise self._failures[0]

    def _work(self) -> None:
        number = 0
        try:
            while not self._stopped.is_set():
                self._job.submit(healthy(20, seconds=0.01, prefix=f"load{number:04}-"))
                number += 1
                time.sleep(self._pause_seconds)
            self._job.close()
        except BaseException as error:
            self._failures.append(error)


class DiskOutage:
    """One daemon under load, whose disk fails and is well again."""

    def __init__(self, there: Fleet, fault: Fault, why: bytes) -> None:
        """Args:
        why: what the daemon must say of the reason while it is not ready.
        """
        self.there = there
        self.fault = fault
        self.daemon: Daemon = there.start()[0]
        self.job = Job(there)
        self._why = why
        self._kept: list[Order] = []
        self._refused: list[str] = []

    def begin_work(self) -> None:
        """Let runs begin of which some end during the outage, and some after it."""
        during = healthy(2, executor="probe", seconds=OUTAGE_SECONDS / 2, prefix="during-p")
        during += healthy(2, seconds=OUTAGE_SECONDS / 2, prefix="during-l")
        beyond = healthy(2, seconds=OUTAGE_SECONDS + 2, prefix="beyond-l")
        self._kept = [*during, *beyond]
        self.job.submit(self._kept)
        wanted = {order.id for order in self._kept}
        begun = self.there.witness.lines
        wait_until(lambda: wanted <= {line.task for line in begun()}, "runs began")

    def endure(self) -> None:
        """Look at the daemon during the whole outage, and hand in what it must refuse."""
        lines = len(self.daemon.log.splitlines())
        wait_until(lambda: not self.daemon.answers_ready(), "noticed", NOTICE_SECONDS)
        began = time.monotonic()
        while time.monotonic() - began < OUTAGE_SECONDS:
            self._require_alive()
            self._require_refused()
        said = self.daemon.log.splitlines()[lines:]
        assert len(said) <= 2 * OUTAGE_SECONDS + LINES_MAX, "\n".join(said)

    def _require_alive(self) -> None:
        assert self.daemon.is_alive, self.daemon.log
        assert self.daemon.ask("/livez").status == 200
        assert self.daemon.ask("/metrics").status == 200
        assert self.daemon.ask("/v1/tasks?limit=5").status == 200
        answer = self.daemon.ask("/readyz")
        assert answer.status == 503, answer
        assert self._why in answer.body, answer.body

    def _require_refused(self) -> None:
        order = Order(f"refused{len(self._refused):04}", "looped", 0)
        self.job.orders[order.id] = order
        with self.daemon.client() as client, pytest.raises(Unavailable) as caught:
            client.request("POST", "/v1/tasks", order.body())
        assert caught.value.status == 503
        assert caught.value.retry_after_seconds > 0
        self._refused.append(order.id)
        time.sleep(PAUSE_SECONDS)

    def resume(self) -> None:
        """See the daemon go on by itself."""
        wait_until(self.daemon.answers_ready, "it is ready again", RESUME_SECONDS)

    def finish(self, load: Job) -> None:
        """Check everything: no run was lost or repeated, and the daemon is the same."""
        self.job.orders |= load.orders
        self.job.accepted |= load.accepted
        self.there.state.wait_until_finished(60)
        faults = list(metric_faults(self.there, [self.daemon]))
        assert not faults, faults
        rows = self.there.state.tasks()
        assert {row["runs"] for row in rows.values()} == {1}, rows
        assert self._refused
        # What is refused at once waits nowhere, however long the disk fails.
        assert len(rows.keys() & set(self._refused)) <= 2, rows.keys()
        self.there.stop()
        require_all(self.job)


def outage(there: Fleet, fault: Fault, why: bytes) -> None:
    """Let the disk fail under load, and be well again."""
    tested, load = DiskOutage(there, fault, why), Job(there)
    tested.begin_work()
    with Load(load).in_background(), _failing(fault, tested.daemon):
        tested.endure()
    tested.resume()
    tested.finish(load)


@contextmanager
def _failing(fault: Fault, daemon: Daemon | None) -> Iterator[None]:
    fault.begin(0 if daemon is None else daemon.pid)
    try:
        yield
    finally:
        fault.end()


def full_disk(there: Fleet) -> None:
    """The disk is full: really, or where no disk can be had, by what the kernel says."""
    disk = there.home / "disk"
    outage(there, FullDisk(disk) if is_small_disk(disk) else NO_ROOM(), b"full")


def no_room_left(there: Fleet) -> None:
    """Every write of the daemon is answered with ENOSPC."""
    outage(there, NO_ROOM(), b"full")


def syncs_fail(there: Fleet) -> None:
    """Every sync is answered with EIO."""
    outage(there, FailingCalls("fsync,fdatasync", "EIO"), b"I/O error")


def writes_fail(there: Fleet) -> None:
    """Every write is answered with EIO."""
    outage(there, FailingCalls("pwrite64", "EIO"), b"I/O error")


def killed(there: Fleet) -> None:
    """Single syncs fail at several points, and the daemon is killed again and again."""
    chance = random.Random(1)
    job = Job(there)
    with Load(job, LONG_PAUSE_SECONDS).in_background():
        for number in range(KILLS):
            fault = FailingCalls("fsync,fdatasync", "EIO", f"{2 + number}+{3 + number}")
            daemon = there.start()[0]
            with _failing(fault, daemon):
                time.sleep(chance.uniform(0.5, KILL_SECONDS_MAX))
                daemon.kill()
        there.start()
    there.state.wait_until_finished(60)
    assert job.accepted
    there.stop()
    require_all(job)


def start(there: Fleet) -> None:
    """A daemon that finds a full disk says so and leaves, and starts when there is room."""
    job = Job(there)
    _require_refusal(there)
    daemon = there.start()[0]
    job.submit(healthy(100, seconds=0.5))
    daemon.kill()
    _use_up_room(there)
    _require_refusal(there)
    there.start()
    there.state.wait_until_finished(60)
    there.stop()
    require_all(job)


def _use_up_room(there: Fleet) -> None:
    # A killed daemon leaves SQLite's write-ahead log, and a start may find room in there.
    with closing(sqlite3.connect(there.home / "disk" / "orchd.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _require_refusal(there: Fleet) -> None:
    disk = there.home / "disk"
    if is_small_disk(disk):
        with _failing(FullDisk(disk), None):
            daemon = there.launch()
            code = daemon.wait(30)
    else:
        daemon = there.launch(wrapper=NO_ROOM().command)
        code = daemon.wait(30)
    assert code == CANNOT_START, (code, daemon.log)
    assert SAID_ROOM.search(daemon.log), daemon.log
    assert "Traceback" not in daemon.log, daemon.log


SCENARIOS: dict[str, Callable[[Fleet], None]] = {
    scenario.__name__: scenario
    for scenario in (full_disk, no_room_left, syncs_fail, writes_fail, killed, start)
}


def main(name: str, home: Path) -> None:
    """Run a scenario with its state on the disk at `home`/disk."""
    with fleet(home, f"sqlite:///{home}/disk/orchd.db", TOML) as there:
        try:
            SCENARIOS[name](there)
        except BaseException:
            for daemon in there.daemons:
                sys.stderr.write(f"--- daemon {daemon.pid}\n{daemon.log[-20_000:]}\n")
            raise


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
