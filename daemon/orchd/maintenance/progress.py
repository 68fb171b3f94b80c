"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Called with (what is being done, how many are done, how many there are or None)."""


def silent(what: str, done: int, total: int | None) -> None:
    """Tell nobody."""
