"""Waits for tasks, also across a daemon's restart, and also before there is a daemon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from orchd.client import TERMINAL, Unavailable, Unreachable
from orchd.config.durations import parse_duration
from orchd.errors import StateLocked
from orchd.system import RealSystem
from orchd_ops.cli.exits import Exit, Failure
from orchd_ops.cli.invocation import Invocation
from orchd_ops.cli.output import say
from orchd_ops.cli.reach import reached

HOLD_SECONDS = 5.0
"""How long one look at a task waits for news of it."""
AWAY_SECONDS = 60.0
"""How long a daemon may be away before waiting for it is given up."""
RETRY_SECONDS = 0.5


def seconds_of(text: str | None, option: str) -> float | None:
    """Return the seconds of an option that is a duration; a usage error otherwise."""
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.UsageError(f"{option} {error}, but it is {text!r}") from None


def wait_for(
    call: Invocation, task_ids: Sequence[str], timeout: str | None = None
) -> list[dict[str, Any]]:
    """Return the tasks as soon as all of them are terminal.

    Raises:
        Failure: it took longer than `timeout`.
        NotFound: there is no such task.
    """
    system = RealSystem()
    seconds = seconds_of(timeout, "--timeout")
    deadline = None if seconds is None else system.monotonic() + seconds
    waiter = _Waiter(call, system, deadline)
    return [waiter.wait(task_id) for task_id in task_ids]


class _Waiter:
    def __init__(
        self, call: Invocation, system: RealSystem, deadline: float | None
    ) -> None:
        self._call = call
        self._system = system
        self._deadline = deadline
        self._alone = False
        self._away_since: float | None = None

    def wait(self, task_id: str) -> dict[str, Any]:
        """Return the task when it is terminal."""
        while True:
            task = self._look(task_id)
            if task is not None and task["status"] in TERMINAL:
                return task
            if self._left() <= 0:
                status = "unknown" if task is None else task["status"]
                message = f"task {task_id} is still {status} after the time given"
                raise Failure(message, Exit.TRY_AGAIN)

    def _left(self) -> float:
        if self._deadline is None:
            return HOLD_SECONDS
        return min(HOLD_SECONDS, self._deadline - self._system.monotonic())

    def _look(self, task_id: str) -> dict[str, Any] | None:
        # The state is reached anew for each look, so that a daemon that starts meanwhile
        # is found, and none is kept from starting.
        try:
            with reached(self._call, write=False) as found:
                self._tell(found.direct)
                hold = max(0.0, self._left())
                # One look costs nothing; the first says whether the task exists at all.
                task = found.client.wait(task_id, hold)
                self._away_since = None
                return task
        except TimeoutError:
            self._away_since = None
            return {"status": "not done"}
        except (Unreachable, Unavailable, StateLocked):
            self._endure()
            return None

    def _endure(self) -> None:
        now = self._system.monotonic()
        if self._away_since is None:
            self._away_since = now
        elif now - self._away_since > AWAY_SECONDS:
            raise
        self._system.block(RETRY_SECONDS)

    def _tell(self, direct: bool) -> None:
        if direct and not self._alone and self._call.url is None:
            say("no daemon answers here; waiting for one (start it with: orchd serve)")
        self._alone = direct
