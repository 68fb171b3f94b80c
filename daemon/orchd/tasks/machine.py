"""The state machine of a task: `decide` says what happens, `evolve` what it changes.

Both are pure. `decide(state, command)` returns the events that the command causes (none
when it has nothing left to do), or raises `Refused`. `evolve(state, stamped)` is total:
whatever `decide` returned, and whatever a log holds after a submission, can be folded.
"""

from __future__ import annotations

from orchd.tasks.deciding import MICROSECONDS, Events, Refused, decide, is_ready
from orchd.tasks.folding import (
    BrokenStream,
    Stamped,
    evolve,
    fold,
    split_body,
    split_payload,
)

__all__ = [
    "MICROSECONDS",
    "BrokenStream",
    "Events",
    "Refused",
    "Stamped",
    "decide",
    "evolve",
    "fold",
    "is_ready",
    "split_body",
    "split_payload",
]
