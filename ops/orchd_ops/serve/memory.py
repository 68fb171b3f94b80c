"""How the daemon's process treats its memory."""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 50_000
"""New objects that are looked through together: those of a thousand tasks under way.
With Python's own 700, looking took half of the time that a task costs."""
MIDDLE_ROUNDS, OLD_ROUNDS = 20, 50


def settle() -> None:
    """Leave what exists now alone for good, and look for garbage less often.

    Called once everything is imported and started. What goes away in cycles is still
    found; what does not, which is nearly all, never waits for that.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, MIDDLE_ROUNDS, OLD_ROUNDS)
