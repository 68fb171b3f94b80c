"""How many may do the same expensive thing at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from orchd.operations.errors import Overloaded

WAITERS_MAX = 2000
"""Requests that are held open until something happens."""
STREAMS_MAX = 1000
"""Open event streams."""


class Gate:
    """Lets a limited number in at a time."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self.inside = 0

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Be inside while the block runs; raises `Overloaded` when it is full."""
        if self.inside >= self._most:
            raise Overloaded(f"there are {self.inside} {self._name} already; try later")
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1
