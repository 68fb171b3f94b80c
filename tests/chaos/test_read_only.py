"""A database that answers and takes no writes: a full disk, or a standby in its place.

Every daemon sees the leases of all others run out, and can renew none. Who is the first to
write again must not declare the others dead, which had no chance to renew theirs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from chaos.checks import require_all
from chaos.conftest import Figures
from chaos.fleet import Daemon, Fleet, fleet, wait_until
from chaos.job import Job, healthy
from chaos.sizes import size
from support.postgres import PostgresServer
from support.postgres_cluster import Cluster

SPELLS = size("SPELLS", small=2, full=30)
LEASE_SECONDS = 1
READ_ONLY_SECONDS = (2.5 * LEASE_SECONDS, 0.8 * LEASE_SECONDS)
"""In turns: until nobody holds a lease, and until some do not."""
NOTICE_SECONDS = LEASE_SECONDS + 2
CALM_SECONDS = 2.5 * LEASE_SECONDS
"""Long enough for whoever may declare others dead by then."""
SECONDS = SPELLS * (READ_ONLY_SECONDS[0] + CALM_SECONDS) + 1
TEST_SECONDS_MAX = 60 + 3 * SECONDS
TOML = f"""
[worker]
concurrency = 8
lease = "{LEASE_SECONDS}s"
"""


@pytest.mark.timeout(TEST_SECONDS_MAX)
def test_a_database_that_takes_no_writes_makes_nobody_dead(
    home: Path, restartable: tuple[PostgresServer, Cluster], figures: Figures
) -> None:
    server, _ = restartable
    with server.database() as url, fleet(home, url, TOML) as there:
        daemons = there.start(3)
        workers = [daemon.worker for daemon in daemons]
        job = Job(there)
        job.submit(healthy(12, seconds=SECONDS, prefix="long"))
        for spell in range(SPELLS):
            short = healthy(9, seconds=LEASE_SECONDS, prefix=f"short{spell}-")
            job.submit(short)
            wait_until(lambda: len(there.witness.runs()) == len(job.orders), "runs began")
            with read_only(url):
                _endure(daemons, READ_ONLY_SECONDS[spell % 2])
            wait_until(lambda: all(d.answers_ready() for d in daemons), "they are ready")
            time.sleep(CALM_SECONDS)
            declared_dead = _declared_dead(there)
            assert not declared_dead, f"{declared_dead} had no chance to renew their leases"
        there.state.wait_until_finished(SECONDS)
        assert [daemon.worker for daemon in daemons] == workers
        assert {row["runs"] for row in there.state.tasks().values()} == {1}
        figures(spells=SPELLS, tasks=len(job.orders))
        job.close()
        there.stop()
        require_all(job)


@contextmanager
def read_only(url: str) -> Iterator[None]:
    """Let the server refuse every write, to all who are connected and to all who come."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        connection.execute("SELECT pg_reload_conf()")
        try:
            yield
        finally:
            connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
            connection.execute("SELECT pg_reload_conf()")


def _endure(daemons: list[Daemon], seconds: float) -> None:
    began = time.monotonic()
    for daemon in daemons if seconds > LEASE_SECONDS else ():
        wait_until(lambda d=daemon: not d.answers_ready(), "it says so", NOTICE_SECONDS)
    time.sleep(max(0.0, began + seconds - time.monotonic()))


def _declared_dead(there: Fleet) -> list[str]:
    said = "".join(daemon.log for daemon in there.daemons)
    return re.findall(r"worker (\S+) on \S+ is dead", said)
