"""Says how far a run is, one line a measurement, on standard error."""

from __future__ import annotations

import sys
import time


class Progress:
    """Counts steps and guesses when the last one is done."""

    def __init__(self) -> None:
        self._steps = 0
        self._done = 0
        self._began = time.monotonic()

    def begin(self, steps: int) -> None:
        """Start to count."""
        self._steps, self._done, self._began = steps, 0, time.monotonic()

    def step(self, name: str, load: str, told: str) -> None:
        """Say what one measurement came to."""
        self._done += 1
        spent = time.monotonic() - self._began
        left = spent / self._done * (self._steps - self._done)
        minutes = f"{spent / 60:.0f} min, about {left / 60:.0f} left"
        self.say(f"[{self._done}/{self._steps}, {minutes}] {name}, {load}: {told}")

    def say(self, text: str) -> None:
        """Say anything."""
        print(text, file=sys.stderr, flush=True)
