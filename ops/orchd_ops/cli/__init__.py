"""The command line: `orchd VERB …`."""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 50_000
"""New objects that are looked through together: those of a thousand tasks under way. With
Python's own 700, looking took a tenth of a start and half of the time of a task."""


def main() -> None:
    """Run the command line and end the process with its exit code."""
    gc.set_threshold(YOUNG_OBJECTS)
    from orchd_ops.cli.running import run

    run()
