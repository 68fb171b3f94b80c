"""What a daemon writes into the log about itself; there is no state to fold."""

from __future__ import annotations

from typing import TypeAlias

from orchd.tasks.events import Event


class DaemonStarted(Event, frozen=True, kw_only=True):
    """A daemon registered its worker and may claim."""

    host: str
    pid: int
    release: str
    executors: tuple[str, ...] = ()


class DaemonDraining(Event, frozen=True, kw_only=True):
    """A daemon claims nothing more."""

    running: int


class DaemonStopped(Event, frozen=True, kw_only=True):
    """A daemon ended in good order."""


class CheckpointCreated(Event, frozen=True, kw_only=True):
    """A verified copy of the state exists."""

    path: str
    at_position: int
    digest: str


DaemonEvent: TypeAlias = DaemonStarted | DaemonDraining | DaemonStopped | CheckpointCreated

EVENT_TYPES: dict[str, type[DaemonEvent]] = {
    "daemon.started": DaemonStarted,
    "daemon.draining": DaemonDraining,
    "daemon.stopped": DaemonStopped,
    "checkpoint.created": CheckpointCreated,
}
