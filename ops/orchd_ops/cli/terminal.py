"""What is only worth its weight on a terminal: drawn tables and progress bars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

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
    """Tells a progress bar where the work stands."""

    def __call__(self, done: float, total: float | None = None) -> None: ...


@contextmanager
def progress_bar(title: str) -> Iterator[Advance]:
    """Show a progress bar on stderr while the block runs."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(title, total=None)

        def advance(done: float, total: float | None = None) -> None:
            progress.update(bar, completed=done, total=total)

        yield advance
