"""The executors of orchd's daemon: async functions that run in its loop.

Each does what the tasks of all peers do (`peers/protocol.py`): it takes the payload and
returns a small result. `sleep` also tells how late the loop comes to what is due.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from peers import protocol

PULSE_SECONDS = 0.01
PULSES_IN_A_RECORD = 20


class Pulse:
    """Beats in the loop and tells how late each beat came."""

    def __init__(self) -> None:
        self.sleeping = 0
        self._beating: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Beat from now on; idempotent."""
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            late = []
            for _ in range(PULSES_IN_A_RECORD):
                due = time.perf_counter() + PULSE_SECONDS
                await asyncio.sleep(PULSE_SECONDS)
                late.append(round(time.perf_counter() - due, 5))
            protocol.say({"sleeping": self.sleeping, "late_seconds": late})


PULSE = Pulse()


async def noop(context: Any) -> str:
    """Do nothing."""
    return json.dumps(protocol.noop(context.payload))


async def stamp(context: Any) -> str:
    """Tell how long after its submission the task was started."""
    return json.dumps(protocol.stamp(context.payload))


async def sleep(context: Any) -> str:
    """Be in flight for as long as the payload says."""
    PULSE.start()
    PULSE.sleeping += 1
    try:
        await asyncio.sleep(context.payload["seconds"])
    finally:
        PULSE.sleeping -= 1
    return json.dumps(protocol.result(context.payload))
