"""A client that is frozen in the middle of an append holds up nobody else.

One daemon reaches PostgreSQL through a proxy that sees what it sends, and is stopped with
SIGSTOP at a chosen point of its append. Meanwhile the others accept, start and complete
tasks, each within a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chaos.checks import require_all
from chaos.fleet import Daemon, Fleet, fleet
from chaos.job import Job, Order, healthy
from chaos.sizes import FULL, duration_seconds, size
from orchd.client import Unreachable
from support.postgres import PostgresServer
from support.postgres_proxy import PostgresProxy, running_proxy

ROUNDS = size("ROUNDS", small=1, full=20)
FROZEN_SECONDS = duration_seconds("FROZEN", small=0.7, full=4)
DELAY_SECONDS_MAX = 1.0
TASK_SECONDS = 0.02
LIMITS = """
[queues.default]
concurrency = 8
[queues.own]
concurrency = 2
"""


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of an empty database."""
    name = postgres_server.create_database()
    yield name
    postgres_server.drop_database(name)


class Victim:
    """The daemon behind the proxy, and the points at which it freezes."""

    def __init__(self, job: Job, daemon: Daemon, proxy: PostgresProxy) -> None:
        self.job = job
        self.daemon = daemon
        self.proxy = proxy

    def before_the_append(self, name: str) -> None:
        """Freeze when it has decided what to append and sent none of it."""
        self.proxy.hold(b"task.completed")
        self._work(name)
        self._freeze_when_held()

    def between_reads_and_append(self, name: str) -> None:
        """Freeze when it has read the task that somebody cancels."""
        order = Order(name, "looped", 0, queue="nobody's", cancel="waiting")
        self.job.submit([order])
        self.proxy.hold(b"task.cancelled")
        with self.daemon.client() as client, pytest.raises(Unreachable):
            client.request("POST", f"/v1/tasks/{name}/cancel", {}, timeout_seconds=0.3)
        self._freeze_when_held()

    def with_the_append_on_its_way(self, name: str) -> None:
        """Freeze at the moment at which the append is seen; the server gets it."""
        frozen = threading.Event()

        def freeze() -> None:
            self.daemon.freeze()
            frozen.set()

        self.proxy.on_message(b"task.completed", freeze)
        self._work(name)
        assert frozen.wait(10), self.daemon.log

    def before_the_end_of_the_batch(self, name: str) -> None:
        """Freeze when the server has got the append and not yet that this was all."""
        self.proxy.hold_sync_after(b"task.completed")
        self._work(name)
        self._freeze_when_held()

    def _work(self, name: str) -> None:
        self.job.submit(healthy(4, seconds=TASK_SECONDS, prefix=f"own-{name}", queue="own"))

    def _freeze_when_held(self) -> None:
        assert self.proxy.held.wait(10), self.daemon.log
        self.daemon.freeze()

    def go_on(self) -> None:
        """Let it go on as if nothing had been."""
        self.daemon.thaw()
        self.proxy.release()


def longest_delay(job: Job, others: list[Daemon], name: str) -> float:
    """Return how long, at most, a task took from its submission to its end on record."""
    longest = 0.0
    began = time.monotonic()
    turn = 0
    while time.monotonic() - began < FROZEN_SECONDS:
        order = Order(f"{name}{turn:03}", "looped", 0)
        job.orders[order.id] = order
        sent = time.monotonic()
        with others[turn % len(others)].client() as client:
            client.request("POST", "/v1/tasks", order.body())
            job.accepted.add(order.id)
            client.wait(order.id, 30)
        longest = max(longest, time.monotonic() - sent)
        turn += 1
    return longest


@contextmanager
def three_daemons(
    home: Path, server: PostgresServer, name: str, toml: str
) -> Iterator[tuple[Fleet, Victim]]:
    """Give a fleet whose first daemon goes through a proxy and has work of its own."""
    worker = '[worker]\nconcurrency = 2\nlease = "30s"\nqueues = ["default"]\n'
    with (
        running_proxy(server.host, server.port) as proxy,
        fleet(home, server.database_url(name), worker + toml) as there,
    ):
        through = proxy.url(server.tcp_url(name, port=proxy.port))
        others = there.start(2)
        victim = there.launch(
            variables={"ORCHD_DATABASE": through, "ORCHD_WORKER__QUEUES": "own"}
        )
        victim.wait_until_ready()
        yield there, Victim(Job(there, through=others), victim, proxy)


@pytest.mark.timeout(1800 if FULL else 120)
@pytest.mark.parametrize("limits", [LIMITS, ""] if FULL else [LIMITS])
def test_a_client_frozen_in_the_middle_of_an_append_delays_nobody(
    home: Path, postgres_server: PostgresServer, database: str, limits: str
) -> None:
    with three_daemons(home, postgres_server, database, limits) as (there, victim):
        points: list[Callable[[str], None]] = [
            victim.before_the_append,
            victim.between_reads_and_append,
            victim.with_the_append_on_its_way,
            victim.before_the_end_of_the_batch,
        ]
        delays: dict[str, float] = {}
        for number in range(ROUNDS):
            for point in points:
                name = f"{point.__name__}-{number}-"
                point(name)
                delays[name] = longest_delay(victim.job, there.daemons[:2], name)
                victim.go_on()
        slow = {name: delay for name, delay in delays.items() if delay >= DELAY_SECONDS_MAX}
        assert not slow, f"frozen clients held the others up: {slow}"
        finish(there, victim.job)


def finish(there: Fleet, job: Job) -> None:
    """Let the job end, and check everything."""
    for task in [order.id for order in job.orders.values() if order.cancel]:
        job.cancel(task)
    job.close()
    there.state.wait_until_finished(60)
    there.stop()
    require_all(job)
