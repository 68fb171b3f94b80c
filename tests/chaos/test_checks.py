"""The checks after a storm notice what no storm brings about by itself."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

from chaos.checks import deadlocks
from chaos.fleet import fleet

LOCK = "SELECT * FROM pair WHERE number = %s FOR UPDATE"


def test_a_deadlock_is_noticed(home: Path, postgres_url: str) -> None:
    with fleet(home, postgres_url) as there:
        assert list(deadlocks(there)) == []
        _lock_each_other_out(postgres_url)
        assert list(deadlocks(there)) == ["PostgreSQL found 1 deadlocks"]


def _lock_each_other_out(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as setting:
        setting.execute("CREATE TABLE pair AS SELECT generate_series(1, 2) AS number")
    barrier = threading.Barrier(2)

    def lock(first: int, second: int) -> bool:
        with psycopg.connect(url) as connection:
            connection.execute(LOCK, (first,))
            barrier.wait()
            try:
                connection.execute(LOCK, (second,))
            except psycopg.errors.DeadlockDetected:
                return True
        return False

    with ThreadPoolExecutor() as pool:
        assert sorted(pool.map(lock, (1, 2), (2, 1))) == [False, True]
