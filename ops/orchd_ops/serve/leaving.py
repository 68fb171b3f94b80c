"""The way out of the daemon's process."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress


def leave(exit_code: int) -> None:
    """End the process now, whatever threads of user code still run in it."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        # A signal may have come in the middle of a write to the same stream.
        with suppress(OSError, ValueError, RuntimeError):
            stream.flush()
    os._exit(exit_code)
