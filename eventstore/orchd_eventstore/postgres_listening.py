"""Hears through LISTEN that another process may have committed."""

from __future__ import annotations

import logging
import threading
from typing import Any

import sqlalchemy as sa

from orchd_eventstore.news import News
from orchd_eventstore.postgres_ddl import NOTIFY_CHANNEL

logger = logging.getLogger(__name__)

WAIT_SECONDS = 0.5
WAITS_PER_LISTEN = 60


class Listener:
    """Hears of commits: of this process at once, of others through LISTEN.

    The connection that listens is made when somebody first waits, and made anew when it
    breaks; a hint that is lost meanwhile costs one timeout.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self.news = News(self._start)

    def _start(self) -> None:
        with self._start_lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(
                    target=self._listen, name="eventstore-listen", daemon=True
                )
                self._thread.start()

    def _listen(self) -> None:
        while not self._closed.is_set():
            try:
                self._listen_once()
            except Exception as error:
                logger.debug("listening was interrupted: %s", error)
                self._closed.wait(1.0)

    def _listen_once(self) -> None:
        borrowed = self._engine.raw_connection()
        try:
            connection = borrowed.driver_connection
            assert connection is not None
            while not self._closed.is_set():
                # Said again from time to time, to hear whether anybody is still there.
                connection.execute(f"LISTEN {NOTIFY_CHANNEL}")
                self.news.tell()
                self._hear(connection)
        finally:
            borrowed.invalidate()

    def _hear(self, connection: Any) -> None:
        for _ in range(WAITS_PER_LISTEN):
            for _ in connection.notifies(timeout=WAIT_SECONDS, stop_after=1):
                self.news.tell()
            if self._closed.is_set():
                return

    def close(self) -> None:
        """Stop listening; idempotent."""
        self._closed.set()
        self.news.tell()
        if self._thread is not None:
            self._thread.join(timeout=5)
