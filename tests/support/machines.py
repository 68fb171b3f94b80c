"""Machines whose clocks a test turns."""

from __future__ import annotations

from orchd.system import RealSystem


class SleepingMachine(RealSystem):
    """A machine that a test lets sleep: event loops do not notice, as in real life."""

    def __init__(self) -> None:
        super().__init__()
        self.slept_seconds = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.slept_seconds
