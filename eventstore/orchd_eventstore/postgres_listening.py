"""Hears through LISTEN that another process may have committed."""

from __future__ import annotations

import logging
import select
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

from orchd_eventstore.news import News
from orchd_eventstore.postgres_ddl import NOTIFY_CHANNEL

logger = logging.getLogger(__name__)

LISTEN_SECONDS = 30.0
"""LISTEN is said again after such a silence, to hear whether anybody is still there."""


class Listener:
    """Hears of commits: of this process at once, of others through LISTEN.

    The connection that listens is made when somebody first waits, and made anew when it
    breaks; a hint that is lost meanwhile costs one timeout.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._wakers: tuple[socket.socket, socket.socket] | None = None
        self.news = News(self._start)

    def _start(self) -> None:
        with self._start_lock:
            if self._thread is None and not self._closed.is_set():
                self._wakers = socket.socketpair()
                self._thread = threading.Thread(
                    target=self._listen,
                    args=(self._wakers[0],),
                    name="eventstore-listen",
                    daemon=True,
                )
                self._thread.start()

    def _listen(self, waker: socket.socket) -> None:
        while not self._closed.is_set():
            try:
                self._listen_once(waker)
            except Exception as error:
                logger.debug("listening was interrupted: %s", error)
                self._closed.wait(1.0)

    def _listen_once(self, waker: socket.socket) -> None:
        with closing(self._connect()) as connection:
            while not self._closed.is_set():
                connection.execute(f"LISTEN {NOTIFY_CHANNEL}")
                self.news.tell()
                self._hear(connection, waker)

    def _hear(self, connection: Any, waker: socket.socket) -> None:
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        poll.register(waker, select.POLLIN)
        while poll.poll(LISTEN_SECONDS * 1000) and not self._closed.is_set():
            for _ in connection.notifies(timeout=0):
                self.news.tell()

    def close(self) -> None:
        """Stop listening; idempotent."""
        self._closed.set()
        self.news.tell()
        with self._start_lock:
            thread, self._thread = self._thread, None
            wakers, self._wakers = self._wakers, None
        if thread is None or wakers is None:
            return
        wakers[1].send(b"\0")
        thread.join(timeout=5)
        if not thread.is_alive():
            for waker in wakers:
                waker.close()
