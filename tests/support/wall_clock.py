"""The wall clock of another process, turned while it runs (libfaketime).

Only the wall clock: CLOCK_MONOTONIC and CLOCK_BOOTTIME go on as they are, as when somebody
sets the date.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

TURN_SECONDS_MAX = 1
"""How long a process may take to notice that its clock was turned."""


def _library() -> Path:
    spec = importlib.util.find_spec("libfaketime")
    assert spec is not None, "libfaketime is not installed"
    assert spec.origin is not None
    return Path(spec.origin).parent.joinpath("vendor/libfaketime/src/libfaketime.so.1")


class WallClock:
    """A file that says by how much the clock is off, and the variables that make it so."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "wall-clock"
        self.turn(0)

    @property
    def environ(self) -> dict[str, str]:
        """What a process has to find in its environment when it starts."""
        return {
            "LD_PRELOAD": str(_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            # Read anew at every call, it is now and then the real time for a thread that
            # asks while another one reads.
            "FAKETIME_CACHE_DURATION": str(TURN_SECONDS_MAX),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def turn(self, seconds: int) -> None:
        """Let the clock be off by so many seconds, a moment from now and from then on."""
        # In one step: a half-written file would be another time again.
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{seconds:+d}\n")
        os.replace(draft, self._file)
