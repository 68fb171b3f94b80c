"""What is only worth its weight on a terminal: drawn tables and progress bars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich import box
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

REDRAW_SECONDS = 0.1

_STYLES = {
    "completed": "green",
    "closed": "green",
    "failed": "red",
    "open": "red",
    "discarded": "dim",
    "cancelled": "yellow",
    "half_open": "yellow",
    "in_progress": "cyan",
}


def draw_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, color: bool
) -> None:
    """Draw a table on stdout."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name.upper(), overflow="fold")
    for row in rows:
        # `Text` keeps square brackets from being read as markup.
        table.add_row(*(Text(text, _STYLES.get(text, "")) for text in row))
    Console(no_color=not color, highlight=False).print(table)


class Advance(Protocol):
    """Tells a progress bar where the work stands, and what is being done now."""

    def __call__(self, done: float, total: float | None = None, what: str = "") -> None: ...


@contextmanager
def progress_bar(title: str) -> Iterator[Advance]:
    """Show a progress bar on stderr while the block runs.

    It is drawn by whoever advances it: a thread of its own would keep this process from
    having helpers.
    """
    console = Console(stderr=True)
    with Progress(
        *Progress.get_default_columns(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        auto_refresh=False,
    ) as progress:
        bar = progress.add_task(title, total=None)
        drawn_at = 0.0

        def advance(done: float, total: float | None = None, what: str = "") -> None:
            nonlocal drawn_at
            text = f"{title}: {what}" if what else title
            progress.update(bar, description=text, completed=done, total=total)
            if progress.get_time() - drawn_at >= REDRAW_SECONDS:
                drawn_at = progress.get_time()
                progress.refresh()

        yield advance
