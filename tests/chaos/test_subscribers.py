"""Whoever follows the log sees every event once, in order, without a hole.

Eight writers commit on one PostgreSQL and roll one append in ten back; three daemons work
and serve subscribers, which read the stream or the pages of the log, break off at random,
and go on at another daemon from the last position that they have seen.
"""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from chaos.checks import require_all
from chaos.conftest import Figures
from chaos.fleet import Daemon, Fleet, fleet, wait_until
from chaos.job import Job, healthy
from chaos.sizes import FULL, duration_seconds, seeds, size
from orchd.ledger.schema import PROJECTIONS
from orchd_eventstore import Append, EventStore, NewEvent
from orchd_eventstore.postgres_wire import Wire
from support.daemons import TOKEN

SECONDS = duration_seconds("SECONDS", small=3, full=300)
BREAKS = size("BREAKS", small=4, full=50)
WRITERS = 8
DAEMONS = 3
ROLLBACK_SHARE = 0.1
PAUSE_SECONDS_MAX = 0.02
CATCH_UP_SECONDS = 60
PAGE_EVENTS = 100
TOML = """
[worker]
concurrency = 4
"""


class Writer:
    """Appends to the log beside the daemons, and rolls some of it back."""

    def __init__(self, url: str, number: int, seed: int) -> None:
        self._url = url
        self._number = number
        self._chance = random.Random(f"{seed}/{number}")
        self.rolled_back = 0

    def write(self, until: float) -> None:
        """Write until then."""
        address = self._url.replace("postgresql://", "postgresql+psycopg://")
        store = EventStore.open(address, PROJECTIONS)
        with closing(store), psycopg.connect(self._url) as beside:
            turn = 0
            while time.monotonic() < until:
                turn += 1
                streams = self._chance.sample(range(3), self._chance.randint(1, 3))
                items = [self._item(stream) for stream in streams]
                if self._chance.random() < ROLLBACK_SHARE:
                    self._roll_back(beside, items, turn)
                else:
                    store.append(items, command_id=f"{self._number}/{turn}")
                time.sleep(self._chance.uniform(0, PAUSE_SECONDS_MAX))

    def _item(self, number: int) -> Append:
        stream = f"daemon-w{self._number}-{number}"
        event = NewEvent.of("daemon.stopped", {}, {"schema": 1, "at": 1})
        counters = {"events/daemon.stopped": 1}
        return Append(stream=stream, expected_version=-1, events=[event], counters=counters)

    def _roll_back(
        self, beside: psycopg.Connection, items: list[Append], turn: int
    ) -> None:
        """Append as the store does, and change one's mind before COMMIT."""
        wire = Wire({each.name: each for each in PROJECTIONS})
        parameters = wire.parameters(items, f"{self._number}/{turn}/undone", (), None)
        call = f"SELECT eventstore_append({', '.join(['%s'] * len(parameters))})"
        beside.execute(call.encode(), parameters)
        beside.rollback()
        self.rolled_back += 1


class Subscriber:
    """Follows the log over all daemons, and remembers the positions that it saw."""

    def __init__(self, there: Fleet, chance: random.Random, *, streams: bool) -> None:
        self._there = there
        self._chance = chance
        self._read = self._stream if streams else self._pages
        self.seen: list[int] = []
        self.breaks = 0
        self.stopped = threading.Event()

    @property
    def last(self) -> int:
        """The last position seen."""
        return self.seen[-1] if self.seen else 0

    def follow(self) -> None:
        """Read on and on, at another daemon after each break."""
        while not self.stopped.is_set():
            daemon = self._chance.choice(self._there.alive)
            # Short ones too: a break right at the start is a break like any other.
            until = time.monotonic() + self._chance.uniform(0, 2 * SECONDS / BREAKS)
            for position in self._read(daemon):
                self.seen.append(position)
                if time.monotonic() > until or self.stopped.is_set():
                    break
            self.breaks += 1

    def _stream(self, daemon: Daemon) -> Iterator[int]:
        connection = self._connected(daemon)
        headers = {"Authorization": f"Bearer {TOKEN}", "Last-Event-ID": str(self.last)}
        with closing(connection), suppress(TimeoutError):
            connection.request("GET", "/v1/events", headers=headers)
            for line in connection.getresponse():
                if line.startswith(b"id: "):
                    yield int(line[4:])

    def _pages(self, daemon: Daemon) -> Iterator[int]:
        with closing(daemon.client()) as client:
            while True:
                path = f"/v1/log?after={self.last}&limit={PAGE_EVENTS}&wait=500ms"
                items = client.request("GET", path)["items"]
                if not items:
                    return
                for event in items:
                    yield int(event["position"])

    def _connected(self, daemon: Daemon) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(daemon.url).netloc, timeout=2)


def in_threads(calls: list[Callable[[], None]]) -> list[threading.Thread]:
    """Start a thread for each call."""
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    return threads


def write(there: Fleet, seed: int) -> int:
    """Let writers and a job append for a while; return how many appends were undone."""
    until = time.monotonic() + SECONDS
    writers = [Writer(there.database, number, seed) for number in range(WRITERS)]
    threads = in_threads([partial(each.write, until) for each in writers])
    for thread in threads:
        thread.join(SECONDS + 60)
        assert not thread.is_alive()
    return sum(each.rolled_back for each in writers)


@pytest.mark.timeout(3600 if FULL else 120)
@pytest.mark.parametrize("seed", seeds("subscribers"))
def test_subscribers_see_every_event_once_in_order(
    home: Path, postgres_url: str, seed: int, figures: Figures
) -> None:
    chance = random.Random(seed)
    with fleet(home, postgres_url, TOML) as there:
        there.start(DAEMONS)
        subscribers = [
            Subscriber(there, random.Random(chance.random()), streams=number % 2 == 0)
            for number in range(4)
        ]
        threads = in_threads([each.follow for each in subscribers])
        job = Job(there)
        job.submit(healthy(round(20 * SECONDS), seconds=0.05))
        job.close()
        undone = write(there, seed)
        there.state.wait_until_finished(120)
        last = there.state.query("SELECT position FROM log_head")[0][0]
        for each in subscribers:
            wait_until(
                lambda each=each: each.last >= last, "it caught up", CATCH_UP_SECONDS
            )
            each.stopped.set()
        for thread in threads:
            thread.join(30)
        figures(events=last, undone=undone, breaks=[each.breaks for each in subscribers])
        for each in subscribers:
            require_dense(each.seen, last)
        assert undone > 0
        there.stop()
        require_all(job)


def require_dense(seen: list[int], last: int) -> None:
    """The positions are 1 to `last`; name the first that is not where it should be."""
    for expected, position in enumerate(seen, start=1):
        assert position == expected, f"saw {position} where {expected} should be"
    assert len(seen) == last


def test_the_check_finds_what_it_looks_for() -> None:
    for wrong in ([1, 3], [1, 1, 2, 3], [1, 3, 2], [2, 3], [1, 2]):
        with pytest.raises(AssertionError):
            require_dense(wrong, 3)
    require_dense([1, 2, 3], 3)
