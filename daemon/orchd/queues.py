"""A queue as a pure state machine: running or paused, nothing else.

A queue exists by being named; only pausing and resuming leave events.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TypeAlias

import msgspec

from orchd.tasks.events import Event, EventMeta


class QueueState(msgspec.Struct, frozen=True, kw_only=True):
    """One row of table `queues`."""

    name: str
    version: int
    paused: bool
    reason: str
    actor: str
    changed_at: int


class QueuePaused(Event, frozen=True, kw_only=True):
    """Nobody may claim from the queue until it is resumed."""


class QueueResumed(Event, frozen=True, kw_only=True):
    """Claims from the queue go on."""


QueueEvent: TypeAlias = QueuePaused | QueueResumed

EVENT_TYPES: dict[str, type[QueueEvent]] = {
    "queue.paused": QueuePaused,
    "queue.resumed": QueueResumed,
}


def decide(state: QueueState | None, *, pause: bool) -> tuple[QueueEvent, ...]:
    """Return the events that pausing (or resuming) causes; none when it is so already."""
    if pause == (state is not None and state.paused):
        return ()
    return (QueuePaused() if pause else QueueResumed(),)


def evolve(
    state: QueueState | None,
    name: str,
    version: int,
    event: QueueEvent,
    meta: EventMeta,
) -> QueueState:
    """Return the state after one more event."""
    return QueueState(
        name=name,
        version=version,
        paused=isinstance(event, QueuePaused),
        reason=meta.reason,
        actor=meta.actor,
        changed_at=meta.at,
    )


@lru_cache(maxsize=1024)
def serves(patterns: tuple[str, ...], queue: str) -> bool:
    """Tell whether a worker that serves `patterns` serves a queue; `*` is any text."""
    return any(_wildcards(pattern).fullmatch(queue) for pattern in patterns)


@lru_cache(maxsize=256)
def _wildcards(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)
