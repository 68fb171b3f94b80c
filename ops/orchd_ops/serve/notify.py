"""Tells systemd how the daemon is; does nothing when nobody listens (see sd_notify(3))."""

from __future__ import annotations

import logging
import os
import socket

logger = logging.getLogger(__name__)

MICROSECONDS_PER_SECOND = 1_000_000


def notify(*assignments: str) -> None:
    """Send assignments such as `READY=1`; a service manager that is gone is ignored."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address[0] == "@":
        # An abstract socket: its name begins with a zero byte.
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as door:
            door.setblocking(False)
            door.connect(address)
            door.sendall("\n".join(assignments).encode())
    except OSError as error:
        logger.debug("systemd was not told %s: %s", assignments[0], error)


def extend_timeout(seconds: float) -> None:
    """Ask for this much more time to start or to stop."""
    notify(f"EXTEND_TIMEOUT_USEC={round(seconds * MICROSECONDS_PER_SECOND)}")


def watchdog_seconds() -> float | None:
    """Return how often systemd wants a sign of life, or None when it wants none."""
    text = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", "")
    if not text.isdigit() or int(text) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(text) / MICROSECONDS_PER_SECOND
