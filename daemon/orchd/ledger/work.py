"""A command on its way through one transaction or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from orchd.ledger.plan import Plan
from orchd.ledger.port import Outcome, Request

Gate: TypeAlias = Callable[[Callable[[], bool]], bool]


class Work:
    """A command under way: what is answered, what is pending, what is in doubt."""

    def __init__(self, requests: Sequence[Request], command_id: str) -> None:
        self.requests = requests
        self.command_id = command_id
        self.outcomes: dict[int, Outcome] = {}
        self.pending = list(range(len(requests)))
        self.round = 0
        self.plan: Plan | None = None
        """What was sent when the answer was lost."""

    @property
    def round_id(self) -> str:
        """The id under which the current transaction commits."""
        return f"{self.command_id}~{self.round}" if self.round else self.command_id

    def settle(self, outcomes: dict[int, Outcome]) -> None:
        """Take over outcomes; what has none stays pending."""
        self.outcomes |= outcomes
        self.pending = [index for index in self.pending if index not in self.outcomes]
        self.round += 1
