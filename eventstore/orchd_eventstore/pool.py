"""Connections that are lent and come back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from orchd_eventstore.errors import StoreUnavailable

WAIT_SECONDS = 30.0
"""How long a caller waits for a connection while all of them are lent."""


class Pool:
    """Lends a driver's connections, the one that came back last first.

    Args:
        connect: makes a connection.
        settle: ends what a borrower may have left open; raises when the connection cannot
            be used any more.
        kept: how many are kept when nobody needs them.
        most: how many are lent at once.
        purpose: what they are for, for who waits in vain.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        settle: Callable[[Any], None],
        *,
        kept: int,
        most: int,
        purpose: str = "reading",
    ) -> None:
        self._connect = connect
        self._settle = settle
        self._kept = kept
        self._most = most
        self._purpose = purpose
        self._free = threading.Semaphore(most)
        self._lock = threading.Lock()
        self._idle: list[Any] = []
        self._era = 0
        """Rises when all connections are given up; those of an earlier one are not kept."""

    @contextmanager
    def lend(self) -> Iterator[Any]:
        """Lend a connection; raises `StoreUnavailable` when none comes free for long."""
        if not self._free.acquire(timeout=WAIT_SECONDS):
            raise StoreUnavailable(
                f"all {self._most} connections for {self._purpose} were in use for "
                f"{WAIT_SECONDS:g} seconds"
            )
        try:
            era, connection = self._take()
            try:
                yield connection
            finally:
                self._give_back(era, connection)
        finally:
            self._free.release()

    def _take(self) -> tuple[int, Any]:
        with self._lock:
            if self._idle:
                return self._era, self._idle.pop()
            era = self._era
        return era, self._connect()

    def _give_back(self, era: int, connection: Any) -> None:
        try:
            self._settle(connection)
        except Exception:
            # What ended this connection has most likely ended those that lie idle.
            _close(connection)
            self.close()
            return
        with self._lock:
            if era == self._era and len(self._idle) < self._kept:
                self._idle.append(connection)
                return
        _close(connection)

    def close(self) -> None:
        """Give up all connections; what is lent is closed when it comes back."""
        with self._lock:
            self._era += 1
            idle, self._idle = self._idle, []
        for connection in idle:
            _close(connection)


def _close(connection: Any) -> None:
    with suppress(Exception):
        connection.close()
