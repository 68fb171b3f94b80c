"""Waiting for something to become true in another process."""

import time
from collections.abc import Callable

from orchd.system import RealSystem

POLL_SECONDS = 0.005
WAIT_SECONDS_MAX = 20.0


async def until(condition: Callable[[], object]) -> None:
    """Return once `condition` holds; fail when it does not within twenty seconds."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await RealSystem().sleep(POLL_SECONDS)


def wait_until(condition: Callable[[], object]) -> None:
    """Do the same where no event loop runs."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(POLL_SECONDS)
