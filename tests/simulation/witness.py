"""What really ran, as the bodies themselves tell it."""

from __future__ import annotations

from orchd.executors.port import RunContext
from simulation.world import Process


class Execution:
    """One body of an executor, from its first step to its last."""

    __slots__ = (
        "context",
        "daemon",
        "executor",
        "is_exclusive",
        "is_over",
        "is_told_to_stop",
        "process",
    )

    def __init__(
        self,
        process: Process,
        daemon: str,
        executor: str,
        context: RunContext,
        *,
        is_exclusive: bool,
    ) -> None:
        self.is_exclusive = is_exclusive
        self.process = process
        self.daemon = daemon
        self.executor = executor
        self.context = context
        self.is_over = False
        self.is_told_to_stop = False

    @property
    def token(self) -> int:
        return self.context.token

    @property
    def task_id(self) -> str:
        return self.context.task_id

    @property
    def is_active(self) -> bool:
        """Whether the body is still at work in a process that lives."""
        return not self.is_over and self.process.alive

    def __str__(self) -> str:
        return f"task {self.task_id} run {self.context.run} token {self.token}"


class Witness:
    """Keeps every execution that ever began, and what it produced."""

    def __init__(self) -> None:
        self.executions: dict[tuple[str, int], Execution] = {}
        self.by_task: dict[str, list[Execution]] = {}
        self.results: dict[tuple[str, int], str] = {}

    def begin(self, execution: Execution) -> bool:
        """Note a start; False when that claim was executed before."""
        key = (execution.task_id, execution.token)
        if key in self.executions:
            return False
        self.executions[key] = execution
        self.by_task.setdefault(execution.task_id, []).append(execution)
        return True

    def result(self, context: RunContext) -> str:
        """Return the result of a run, and keep it."""
        text = f"result of {context.task_id} by token {context.token}"
        self.results[context.task_id, context.token] = text
        return text

    def active(self) -> list[Execution]:
        """Return what is at work."""
        return [x for x in self.executions.values() if x.is_active]
