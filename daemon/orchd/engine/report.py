"""The reports of a run, on their way to the disk.

They stand where futures could, and pass on what came of them as soon as the commit has been
answered. With futures the coroutine of every run would have to be woken up once more at its
end, only to find that there is nothing left to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from orchd.engine.run import Run
from orchd.ledger.port import Outcome

Answer: TypeAlias = Outcome | BaseException | None
"""What came of a report, or why nothing did; None when nobody carries it out any more."""


class EndReport:
    """The report of a run's end, for which nothing waits.

    Args:
        heard: called once with the run, the answer, and whether it is the run's last word.
    """

    __slots__ = ("_heard", "_is_last", "_run", "_told")

    def __init__(
        self, run: Run, *, is_last: bool, heard: Callable[[Run, Answer, bool], None]
    ) -> None:
        self._run = run
        self._is_last = is_last
        self._heard = heard
        self._told = False

    def done(self) -> bool:
        """Tell whether it has been answered."""
        return self._told

    def set_result(self, outcome: Outcome) -> None:
        """Pass the outcome on."""
        self._tell(outcome)

    def set_exception(self, error: BaseException) -> None:
        """Pass on that the report could not be carried out."""
        self._tell(error)

    def cancel(self) -> None:
        """Pass on that the process ends: the next one does the run again."""
        if not self._told:
            self._tell(None)

    def _tell(self, answer: Answer) -> None:
        self._told = True
        self._heard(self._run, answer, self._is_last)


class ProgressReport:
    """The report of a run that goes on once it is on disk.

    What the run learns from it is noted before the next answer of the same commit is passed
    on, which may be that of the run's end. Its coroutine is woken up after that.

    Args:
        heard: called with the run and the outcome.
    """

    def __init__(self, run: Run, heard: Callable[[Run, Outcome], None]) -> None:
        self._run = run
        self._heard = heard
        self.answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        """What the run awaits."""

    def done(self) -> bool:
        """Tell whether it has been answered, or is awaited by nobody any more."""
        return self.answered.done()

    def set_result(self, outcome: Outcome) -> None:
        """Note the outcome, and wake the run up."""
        try:
            self._heard(self._run, outcome)
        finally:
            self.answered.set_result(outcome)

    def set_exception(self, error: BaseException) -> None:
        """Raise an error in the run."""
        self.answered.set_exception(error)

    def cancel(self) -> None:
        """Cancel the run."""
        self.answered.cancel()
