"""The Python executors of a storm: the probe's work in the daemon, and in its children."""

from __future__ import annotations

import asyncio
import time

from chaos.probe import Note, finish, order_of
from orchd.executors.port import RunContext
from orchd.interfaces import Task

HOARD: list[bytearray] = []
"""What a greedy task has taken and never gives back."""
HOARD_BYTES = 8 * 1024 * 1024


class Worker:
    """Notes in the witness file what runs."""

    def __init__(self, witness: str) -> None:
        self._witness = witness

    def note(self, context: RunContext) -> Note:
        """Return the note of a run."""
        return Note(
            self._witness, context.task_id, context.run, context.attempt, context.token
        )


class Looped(Worker):
    """Works in the daemon's event loop."""

    async def execute(self, task: Task, context: RunContext) -> str:
        note = self.note(context)
        note.write("start")
        seconds, verb = order_of(task.description)
        await asyncio.sleep(seconds)
        if verb == "exhaust":
            exhaust()
        note.write("end")
        finish(verb, context.attempt)
        return f"{context.run} {context.token}"


class Forked(Worker):
    """Works in a child process of the daemon."""

    def execute(self, task: Task, context: RunContext) -> str:
        note = self.note(context)
        note.write("start")
        seconds, verb = order_of(task.description)
        time.sleep(seconds)
        note.write("end")
        finish(verb, context.attempt)
        return f"{context.run} {context.token}"


def exhaust() -> None:
    """Take memory until there is none, in pieces of every size, and keep it."""
    size = HOARD_BYTES
    while size:
        try:
            HOARD.append(bytearray(size))
        except MemoryError:
            size //= 2
    raise MemoryError
