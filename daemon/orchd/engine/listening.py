"""What the engine has to hear of its own commits."""

from __future__ import annotations

from typing import Protocol

from orchd.engine.observer import CommitTiming, Observer, TaskNews
from orchd.interfaces import TaskStatus
from orchd.tasks.events import TaskCancelRequested
from orchd.tasks.state import Phase, TaskState


class Listening(Protocol):
    """What a listener asks of its engine."""

    def note_due(self, due: int) -> None: ...

    def stop_task(self, task_id: str) -> None: ...

    def may_run(self, executor: str, queue: str) -> bool: ...

    def wake(self) -> None: ...


class Listener(Observer):
    """Wakes the engine for what became ready, is due or was cancelled here."""

    def __init__(self, engine: Listening) -> None:
        self._engine = engine
        self._ready: dict[str, None] = {}
        """Tasks that one commit made ready and did not start."""

    def task_moved(self, news: TaskNews) -> None:
        task = news.after
        if task.waiting_until is not None:
            self._engine.note_due(task.waiting_until)
        elif task.status is TaskStatus.PENDING and self._concerns(task):
            self._ready[task.id] = None
        elif self._ready:
            self._ready.pop(task.id, None)
        for event in news.events:
            if isinstance(event, TaskCancelRequested):
                self._engine.stop_task(task.id)

    def _concerns(self, task: TaskState) -> bool:
        # A result to verify may be anybody's who has the verifiers.
        return task.phase is Phase.VERIFY or self._engine.may_run(task.executor, task.queue)

    def committed(self, timing: CommitTiming) -> None:
        if self._ready:
            self._ready.clear()
            self._engine.wake()
