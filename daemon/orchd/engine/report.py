"""The report of a run's end, on its way to the disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from orchd.engine.run import Run
from orchd.ledger.port import Outcome

Answer: TypeAlias = Outcome | BaseException
"""What came of a report, or why nothing did."""


class EndReport:
    """Tells the runner what came of a report, as soon as the commit has been answered.

    It stands where a future could. With a future the coroutine of every run would have to
    be woken up once more, only to find that there is nothing left to do.

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
        self._told = True
        self._heard(self._run, outcome, self._is_last)

    def set_exception(self, error: BaseException) -> None:
        """Pass on that the report could not be carried out."""
        self._told = True
        self._heard(self._run, error, self._is_last)

    def cancel(self) -> None:
        """Do nothing: the process ends, and the next one does the run again."""
        self._told = True
