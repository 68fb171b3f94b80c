"""The states, the configuration and the figures of an embedded run."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from orchd.system import MICROSECONDS_PER_SECOND, RealSystem

SYSTEM = RealSystem()
"""The door to the world for everything embedded."""


class OrchestratorState(Enum):
    """Where an orchestrator is in its life."""

    IDLE = "idle"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    ERROR = "error"


ACTIVE = (OrchestratorState.RUNNING, OrchestratorState.PAUSED)


@dataclass
class OrchestratorConfig:
    """How an embedded run treats its tasks; may be changed between tasks."""

    verify_results: bool = True
    retry_on_failure: bool = True
    max_attempts_per_task: int = 3
    """Attempts in total, the first one included."""
    pause_between_tasks: float = 0.0
    """Seconds between the end of a task and the start of the next one."""


def now_seconds() -> float:
    """Return the wall clock in seconds since the epoch."""
    return SYSTEM.now() / MICROSECONDS_PER_SECOND


@dataclass
class OrchestratorStats:
    """The figures of one run; times are seconds since the epoch."""

    tasks_started: int = 0
    tasks_completed: int = 0
    tasks_failed: int = 0
    executions: int = 0
    start_time: float = field(default_factory=now_seconds)
    end_time: float | None = None

    @property
    def elapsed_seconds(self) -> float:
        """How long the run took, or has taken so far."""
        return (self.end_time or now_seconds()) - self.start_time

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, and the elapsed seconds to two places."""
        return {
            "tasks_started": self.tasks_started,
            "tasks_completed": self.tasks_completed,
            "tasks_failed": self.tasks_failed,
            "executions": self.executions,
            "elapsed_seconds": round(self.elapsed_seconds, 2),
        }
