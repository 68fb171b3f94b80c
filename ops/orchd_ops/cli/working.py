"""Progress of long work on the database, shown on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from orchd.maintenance.progress import Progress, silent


@contextmanager
def shown_progress(title: str) -> Iterator[Progress]:
    """Yield where to report progress while the block runs."""
    if not sys.stderr.isatty():
        yield silent
        return
    from orchd_ops.cli.terminal import progress_bar

    with progress_bar(title) as advance:

        def report(what: str, done: int, total: int | None) -> None:
            del what
            advance(done, total)

        yield report
