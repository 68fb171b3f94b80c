"""Connections that give up on a server from which nothing comes any more.

The kernel notices a peer that acknowledges nothing. It does not notice one that takes
every byte and never answers: a pooler that hangs, a machine whose disk has gone. The server
ends each of our statements after `statement_timeout`, so who has not answered some time
later never will.
"""

from __future__ import annotations

import select
from typing import Any

import psycopg

STATEMENT_SECONDS = 30
"""After this long the server ends a statement."""
SILENCE_SECONDS = 35.0
"""After this long without a byte a connection is given up."""


class PatientConnection(psycopg.Connection[Any]):
    """A connection that is closed when the server has been silent for too long."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait for the server, as the driver does for everything it asks."""
        if timeout is not None:
            # Somebody waits for what may never come, such as a notification.
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, SILENCE_SECONDS)
        except psycopg.errors._WaitTimeout as error:  # it has no public name
            self.pgconn.finish()
            raise silent() from error


def silent() -> psycopg.OperationalError:
    """Return the error for a server that does not answer."""
    return psycopg.OperationalError(
        f"the server has not answered for {SILENCE_SECONDS:g} seconds"
    )


def send_all(connection: Any) -> None:
    """Wait until everything that was executed has left this process.

    In pipeline mode the driver flushes once and then waits only for answers; a message
    larger than the socket's buffer would never get out, and so have no answer.
    """
    wire = connection.pgconn
    poller = select.poll()
    poller.register(wire.socket, select.POLLIN | select.POLLOUT)
    while wire.flush():
        ready = poller.poll(SILENCE_SECONDS * 1_000)
        if not ready:
            wire.finish()
            raise silent()
        if any(events & ~select.POLLOUT for _, events in ready):
            wire.consume_input()
