"""The signals of the daemon, from its first moment on."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from types import FrameType

from orchd_ops.serve.leaving import leave

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
ECHO_SECONDS = 0.05
"""Some programs send one request twice, to the process and to its group; what comes this
soon after the first signal is the same request."""


class StopSignals:
    """Counts requests to stop.

    Make it first of all. Until the event loop hears the signals nothing has been opened,
    so a request then ends the process where it is, and in good order all the same.
    """

    def __init__(self) -> None:
        self._count = 0
        self._first_at = 0.0
        self.drain = asyncio.Event()
        """Set by the first signal."""
        self.at_once = asyncio.Event()
        """Set by the second one."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._early)
        # Until the configuration can be read anew, reloading means nothing.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def attach(self) -> None:
        """Let the running event loop hear the signals from now on."""
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._stop, number)

    def on_reload(self, reload: Callable[[], None]) -> None:
        """Call `reload` at each SIGHUP from now on."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)

    def _early(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        leave(0)

    def _stop(self, number: int) -> None:
        now = asyncio.get_running_loop().time()
        if self._count == 1 and now - self._first_at < ECHO_SECONDS:
            return
        self._first_at = now
        self._count += 1
        name = signal.Signals(number).name
        again = "draining; once more stops at once" if self._count == 1 else "stopping"
        logger.info("received %s: %s", name, again)
        self._announce()

    def _announce(self) -> None:
        if self._count >= 1:
            self.drain.set()
        if self._count >= 2:
            self.at_once.set()
