"""While the database is away the daemon stays up, says so, and keeps what its runs report.

Away means: it crashed and stays down, it swallows every byte, or it takes no connection.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from chaos.checks import require_all
from chaos.conftest import Figures
from chaos.fleet import Daemon, Fleet, fleet, wait_until
from chaos.job import Job, Order, healthy
from chaos.metrics import metric_faults
from chaos.proxied import through_a_proxy
from chaos.sizes import FULL, duration_seconds
from orchd.client import Problem, Unavailable
from support.postgres import PostgresServer
from support.postgres_cluster import Cluster

OUTAGE_SECONDS = duration_seconds("OUTAGE", small=8, full=600)
LEASE_SECONDS = 3
NOTICE_SECONDS = LEASE_SECONDS + 2
SILENCE_SECONDS = 60
REFUSAL_SECONDS = 6.0
LATER_REFUSAL_SECONDS = 1.0
PAUSE_SECONDS = 0.2
RESUME_SECONDS = 10.0
# Lines in the log of a daemon whose database is away, beside one a second.
LINES_MAX = 10
TOML = f"""
[worker]
concurrency = 12
lease = "{LEASE_SECONDS}s"
"""


class Outage:
    """One daemon with runs at work, and a job that lasts longer than the outage."""

    def __init__(self, there: Fleet, *, silent: bool = False) -> None:
        self.there = there
        # Who waits for a silent database is told so after a while, each time anew.
        self._later_seconds = REFUSAL_SECONDS if silent else LATER_REFUSAL_SECONDS
        self.daemon: Daemon = there.start()[0]
        self.job = Job(there)
        self.refused: list[str] = []

    def begin_work(self) -> None:
        """Let runs begin of which some end during the outage, and some after it."""
        during = healthy(4, executor="probe", seconds=OUTAGE_SECONDS / 3, prefix="during-p")
        during += healthy(2, seconds=OUTAGE_SECONDS / 3, prefix="during-l")
        beyond = healthy(2, executor="probe", seconds=OUTAGE_SECONDS + 2, prefix="beyond-p")
        beyond += healthy(2, seconds=OUTAGE_SECONDS + 2, prefix="beyond-l")
        self.job.submit([*during, *beyond, *healthy(2, seconds=0.1, prefix="soon")])
        self.job.close()
        count = len(during + beyond)
        begun = self.there.witness.lines
        wait_until(lambda: count <= len({line.task for line in begun()}), "runs began")

    def endure(self) -> None:
        """Look at the daemon during the whole outage, and hand in what it must refuse."""
        began = time.monotonic()
        lines = len(self.daemon.log.splitlines())
        wait_until(lambda: not self.daemon.answers_ready(), "noticed", NOTICE_SECONDS)
        while time.monotonic() - began < OUTAGE_SECONDS:
            self._require_alive()
            self._require_refused()
        said = self.daemon.log.splitlines()[lines:]
        assert len(said) <= OUTAGE_SECONDS + LINES_MAX, said

    def _require_alive(self) -> None:
        assert self.daemon.is_alive, self.daemon.log
        assert self.daemon.ask("/livez").status == 200
        answer = self.daemon.ask("/readyz")
        assert answer.status == 503
        assert b"database" in answer.body, answer

    def _require_refused(self) -> None:
        order = Order(f"refused{len(self.refused):04}", "looped", 0)
        self.job.orders[order.id] = order
        began = time.monotonic()
        with self.daemon.client() as client, pytest.raises(Unavailable) as caught:
            client.request("POST", "/v1/tasks", order.body())
        assert caught.value.status == 503
        assert caught.value.retry_after_seconds > 0
        # The first one waits in case the database comes back; the others need not.
        limit = self._later_seconds if self.refused else REFUSAL_SECONDS
        assert time.monotonic() - began < limit
        self.refused.append(order.id)
        time.sleep(PAUSE_SECONDS)

    def resume(self) -> float:
        """Wait until it takes and does work again; return how long that took."""
        began = time.monotonic()
        wait_until(self._is_back, "work resumes", RESUME_SECONDS)
        took = time.monotonic() - began
        self.there.state.wait_until_finished(60)
        return took

    def _is_back(self) -> bool:
        order = Order("after", "looped", 0)
        self.job.orders[order.id] = order
        try:
            with self.daemon.client() as client:
                client.request("POST", "/v1/tasks", order.body())
                client.wait(order.id, RESUME_SECONDS)
        except Problem:
            return False
        self.job.accepted.add(order.id)
        return True

    def finish(self) -> None:
        """Check everything: no run was lost or repeated, and the lease neither."""
        faults = list(metric_faults(self.there, [self.daemon]))
        assert not faults, faults
        rows = self.there.state.tasks()
        assert {row["runs"] for row in rows.values()} == {1}, rows
        # What is refused at once waits nowhere, however long the database is away.
        assert self.refused
        assert len(rows.keys() & set(self.refused)) <= 2
        self.there.stop()
        require_all(self.job)


@pytest.mark.timeout(3600 if FULL else 120)
def test_an_outage_kills_no_running_work(
    home: Path, restartable: tuple[PostgresServer, Cluster], figures: Figures
) -> None:
    server, cluster = restartable
    with server.database() as url, fleet(home, url, TOML) as there:
        outage = Outage(there)
        outage.begin_work()
        cluster.crash()
        outage.endure()
        cluster.start()
        figures(outage_seconds=OUTAGE_SECONDS, resumed_after_seconds=outage.resume())
        outage.finish()


@pytest.mark.timeout(3600 if FULL else 120)
def test_a_black_hole_kills_no_running_work(
    home: Path, postgres_server: PostgresServer, figures: Figures
) -> None:
    with through_a_proxy(home, postgres_server, TOML) as (there, proxy):
        outage = Outage(there, silent=True)
        outage.begin_work()
        proxy.swallow()
        outage.endure()
        proxy.restore()
        figures(outage_seconds=OUTAGE_SECONDS, resumed_after_seconds=outage.resume())
        outage.finish()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("silent", [False, True], ids=["refused", "silent"])
def test_a_signal_while_the_database_is_away_ends_the_daemon_in_time(
    home: Path, postgres_server: PostgresServer, silent: bool, figures: Figures
) -> None:
    """What its runs reported is not on record; they are done again by the next daemon."""
    limits = 'drain_timeout = "500ms"\nkill_grace = "500ms"\n'
    with through_a_proxy(home, postgres_server, TOML + limits) as (there, proxy):
        daemon, job = there.start()[0], Job(there)
        job.submit([*healthy(2, seconds=2), *healthy(2, seconds=0.3, prefix="soon")])
        job.close()
        wait_until(lambda: len(there.witness.lines()) >= 4, "runs began")
        proxy.swallow() if silent else proxy.refuse()
        wait_until(lambda: len(there.witness.lines()) >= 6, "runs ended")
        daemon.send(signal.SIGTERM)
        code, took = daemon.wait_and_time(60)
        figures(stopped_after_seconds=took)
        assert (code, took <= 0.5 + 0.5 + 1) == (0, True), (code, took, daemon.log)
        assert there.processes() == []
        proxy.restore()
        there.start()
        there.state.wait_until_finished(30)
        there.stop()
        require_all(job)


@contextmanager
def every_connection(url: str) -> Iterator[None]:
    """Take every connection that the server has, the daemons' own too."""
    with ExitStack() as taken:
        mine = taken.enter_context(psycopg.connect(url, autocommit=True))
        for _ in until_refused(lambda: taken.enter_context(psycopg.connect(url))):
            mine.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'orchd' AND datname = current_database()"
            )
        yield


def until_refused(connect: Callable[[], object]) -> Iterator[None]:
    """Connect until the server has refused it for a second."""
    refused_since = None
    while refused_since is None or time.monotonic() - refused_since < 1:
        yield
        try:
            connect()
            refused_since = None
        except psycopg.OperationalError:
            refused_since = refused_since or time.monotonic()


@pytest.mark.timeout(3600 if FULL else 120)
def test_a_database_without_connections_kills_no_running_work(
    home: Path, restartable: tuple[PostgresServer, Cluster], figures: Figures
) -> None:
    server, _ = restartable
    with server.database() as url, fleet(home, url, TOML) as there:
        outage = Outage(there)
        outage.begin_work()
        with every_connection(url):
            outage.endure()
        figures(outage_seconds=OUTAGE_SECONDS, resumed_after_seconds=outage.resume())
        outage.finish()


if FULL:
    # It takes as long as a statement may, and half a minute is long for a default run;
    # the tests of the event store do the same with a shorter silence.
    @pytest.mark.timeout(120)
    def test_connections_that_went_silent_for_ever_are_given_up(
        home: Path, postgres_server: PostgresServer, figures: Figures
    ) -> None:
        """Whoever passed their bytes on has forgotten them; new connections work."""
        with through_a_proxy(home, postgres_server, TOML) as (there, proxy):
            daemon, job = there.start()[0], Job(there)
            job.submit(healthy(40, seconds=0.5))
            job.close()
            wait_until(lambda: there.state.counts()["completed"], "work goes on")
            proxy.strand()
            began = time.monotonic()
            there.state.wait_until_finished(SILENCE_SECONDS)
            figures(resumed_after_seconds=time.monotonic() - began)
            wait_until(daemon.answers_ready, "it is ready")
            there.stop()
            require_all(job)
