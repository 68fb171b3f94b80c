"""Progress of long work on the database: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from orchd.maintenance.progress import Progress
from orchd.system import RealSystem
from orchd_ops.cli.output import say

LINE_SECONDS = 10.0
"""How often a line is written where there is no terminal; short work writes none."""


@contextmanager
def shown_progress(title: str) -> Iterator[Progress]:
    """Yield where to report progress while the block runs."""
    if not sys.stderr.isatty():
        yield _lines(title)
        return
    from orchd_ops.cli.terminal import progress_bar

    with progress_bar(title) as advance:

        def report(what: str, done: int, total: int | None) -> None:
            advance(done, total, what)

        yield report


def _lines(title: str) -> Progress:
    system = RealSystem()
    said_at = system.monotonic()

    def report(what: str, done: int, total: int | None) -> None:
        nonlocal said_at
        now = system.monotonic()
        if now - said_at >= LINE_SECONDS:
            said_at = now
            say(f"{title}: {_counted(what, done, total)}")

    return report


def _counted(what: str, done: int, total: int | None) -> str:
    if not total:
        return f"{done:,} {what}"
    return f"{done:,} of {total:,} {what} ({done * 100 // total} %)"
