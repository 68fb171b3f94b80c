"""The breaker of an executor as a pure state machine.

It counts failures of what the executor depends on, never a task's own failure. Closed:
claims flow. Open: nobody claims until the cooldown is over. Half-open: one worker probes
with one task, and its end closes or reopens the breaker.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

import msgspec

from orchd.tasks.events import Event, EventMeta


class Position(StrEnum):
    """Where a breaker stands; the values are public."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


class BreakerState(msgspec.Struct, frozen=True, kw_only=True):
    """One row of table `breakers`."""

    name: str
    version: int
    position: Position
    failures: int
    """Dependency failures in a row that opened it."""
    error: str
    until: int | None
    """Open: when a probe may start. Half-open: when another worker may send one, unless
    the probe is still at work."""
    worker: str | None
    """Half-open: the worker that probes."""
    changed_at: int


class BreakerOpened(Event, frozen=True, kw_only=True):
    """Too many dependency failures in a row, or the probe failed."""

    failures: int
    error: str
    until: int


class BreakerHalfOpened(Event, frozen=True, kw_only=True):
    """The cooldown is over; `worker` sends one task as a probe."""

    worker: str
    until: int


class BreakerClosed(Event, frozen=True, kw_only=True):
    """The probe succeeded, or an operator reset the breaker."""


BreakerEvent: TypeAlias = BreakerOpened | BreakerHalfOpened | BreakerClosed

EVENT_TYPES: dict[str, type[BreakerEvent]] = {
    "breaker.opened": BreakerOpened,
    "breaker.half_opened": BreakerHalfOpened,
    "breaker.closed": BreakerClosed,
}


class Open(msgspec.Struct, frozen=True, kw_only=True):
    """Command: the dependency failed `failures` times in a row."""

    now: int
    failures: int
    error: str
    cooldown: int
    """Microseconds until a probe may start."""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """Command: let `worker` send one task; another worker may after `patience`
    microseconds, if none is at work then."""

    now: int
    worker: str
    patience: int


class Close(msgspec.Struct, frozen=True, kw_only=True):
    """Command: the dependency works again, or an operator says so."""

    now: int


BreakerCommand: TypeAlias = Open | Probe | Close


def decide(state: BreakerState | None, command: BreakerCommand) -> tuple[BreakerEvent, ...]:
    """Return the events that `command` causes; none when there is nothing to change."""
    position = Position.CLOSED if state is None else state.position
    if isinstance(command, Open):
        if position is Position.OPEN:
            return ()
        until = command.now + command.cooldown
        return (BreakerOpened(failures=command.failures, error=command.error, until=until),)
    if isinstance(command, Close):
        return () if position is Position.CLOSED else (BreakerClosed(),)
    if state is None or not may_probe(state, command.now):
        return ()
    if state.worker == command.worker:
        # It may send one as it is.
        return ()
    until = command.now + command.patience
    return (BreakerHalfOpened(worker=command.worker, until=until),)


def may_probe(state: BreakerState, now: int) -> bool:
    """Tell whether the cooldown, or the patience with who is to probe, is over."""
    if state.position is Position.CLOSED:
        return False
    return state.until is not None and state.until <= now


def evolve(
    state: BreakerState | None,
    name: str,
    version: int,
    event: BreakerEvent,
    meta: EventMeta,
) -> BreakerState:
    """Return the state after one more event."""
    before = state or BreakerState(
        name=name,
        version=0,
        position=Position.CLOSED,
        failures=0,
        error="",
        until=None,
        worker=None,
        changed_at=meta.at,
    )
    if isinstance(event, BreakerOpened):
        changes = {
            "position": Position.OPEN,
            "failures": event.failures,
            "error": event.error,
            "until": event.until,
            "worker": None,
        }
    elif isinstance(event, BreakerHalfOpened):
        changes = {
            "position": Position.HALF_OPEN,
            "until": event.until,
            "worker": event.worker,
        }
    else:
        changes = {
            "position": Position.CLOSED,
            "failures": 0,
            "error": "",
            "until": None,
            "worker": None,
        }
    return msgspec.structs.replace(before, version=version, changed_at=meta.at, **changes)
