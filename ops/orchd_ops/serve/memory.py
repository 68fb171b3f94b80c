"""How the daemon's process treats its memory."""

from __future__ import annotations

import asyncio
import gc
import os
from typing import Any

from orchd_ops.cli import YOUNG_OBJECTS

EXIT_CODE = 70
"""EX_SOFTWARE of sysexits.h."""
MIDDLE_ROUNDS, OLD_ROUNDS = 20, 50


def settle() -> None:
    """Leave what exists now alone for good, and look for garbage less often.

    Called once everything is imported and started. What goes away in cycles is still
    found; what does not, which is nearly all, never waits for that. A look at it before
    would find a few dozen objects, and the first task would wait for it. Later it would be
    wrong: what tasks leave behind would stay for good.
    """
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, MIDDLE_ROUNDS, OLD_ROUNDS)


def leave_without() -> None:
    """End the process when the running loop gets no memory for work of its own.

    Such a daemon lives and does nothing. Once it is gone its tasks are another one's, and
    the task that took the memory is found by running alone. A task that merely fails
    for want of memory ends nothing.
    """
    asyncio.get_running_loop().set_exception_handler(_on_error)


def _on_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if isinstance(context.get("exception"), MemoryError):
        # At once, since anything else would take memory.
        os._exit(EXIT_CODE)
    loop.default_exception_handler(context)
