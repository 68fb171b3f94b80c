"""What the tasks themselves say of what ran. The daemon is not asked."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple


class Line(NamedTuple):
    """One line of the witness file."""

    kind: str
    """`start` or `end`."""
    task: str
    run: int
    attempt: int
    token: int
    pid: int
    boottime: int
    """Nanoseconds since boot."""


@dataclasses.dataclass(frozen=True)
class Seen:
    """What was seen of one run: its start, and its end unless it was killed before."""

    start: Line
    end: Line | None


class Witness:
    """A witness file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[Line]:
        """Return every line so far, in the order in which they were written."""
        if not self.path.exists():
            return []
        # The last line may be about to be written.
        whole = self.path.read_text().rpartition("\n")[0]
        return [_parsed(text) for text in whole.splitlines()]

    def starts(self, task: str) -> list[Line]:
        """Return the starts of one task."""
        return [each for each in self.lines() if (each.kind, each.task) == ("start", task)]

    def runs(self) -> dict[str, list[Seen]]:
        """Return task -> its runs, in the order of their starts.

        A run that started twice is there twice: that is for the checks to find.
        """
        lines = self.lines()
        ends = {(e.task, e.run, e.token): e for e in lines if e.kind == "end"}
        found: dict[str, list[Seen]] = defaultdict(list)
        for line in lines:
            if line.kind == "start":
                end = ends.get((line.task, line.run, line.token))
                found[line.task].append(Seen(line, end))
        return found


def _parsed(text: str) -> Line:
    kind, task, run, attempt, token, pid, boottime = text.split(" ")
    numbers = (int(run), int(attempt), int(token), int(pid), int(boottime))
    return Line(kind, task, *numbers)
