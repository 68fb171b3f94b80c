"""Checks the hash chain of a log from its first commit to its head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple, Protocol

import msgspec

from orchd_eventstore.chain import GENESIS_HASH, commit_hash
from orchd_eventstore.erasing import ErasedHashes
from orchd_eventstore.events import Erasure, Head, RecordedEvent

PAGE_COMMITS = 500

Progress = Callable[[int, int], None]
"""Called with (position reached, position of the head)."""
ReadEvents = Callable[[int, int], list[RecordedEvent]]
"""Given (after, up to), returns the events in between, in order."""
ReadErasures = Callable[[int, int], list[Erasure]]
"""Given (after, up to), returns what was erased from the events in between."""


class BadCommit(msgspec.Struct, frozen=True, kw_only=True):
    """The first commit that is not as it was written."""

    command_id: str
    first_position: int
    last_position: int
    why: str


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What was found."""

    commits: int
    events: int
    bad: BadCommit | None

    @property
    def ok(self) -> bool:
        """Whether the whole log is as it was written."""
        return self.bad is None


class CommitRow(NamedTuple):
    """A row of table `commits`."""

    last_position: int
    command_id: str
    events: int
    recorded_at: int
    hash: str
    rules: int


class Log(Protocol):
    """What is read of the store whose log is checked."""

    def head(self) -> Head: ...

    def bounds(self) -> tuple[int, int]: ...

    def commits(self, *, after: int, limit: int) -> list[CommitRow]: ...

    def read_all(
        self, *, after: int, limit: int, up_to: int | None
    ) -> list[RecordedEvent]: ...

    def erasures(self, after: int, up_to: int) -> list[Erasure]: ...


class Link(NamedTuple):
    """A commit with its events; `why_bad` says what is wrong with it, if anything."""

    commit: CommitRow
    events: list[RecordedEvent]
    why_bad: str | None


def verify_log(log: Log, progress: Progress | None = None) -> Verification:
    """Walk through all commits; stops at the first that is not as it was written.

    The log may grow meanwhile: what is checked ends at the head as it was when the walk
    began. The bounds of all rows are taken before that head, so that a commit in
    between lies within it.
    """
    lowest, highest = log.bounds()
    head = log.head()

    def read_events(after: int, up_to: int) -> list[RecordedEvent]:
        return log.read_all(after=after, up_to=up_to, limit=up_to - after)

    walk = Walk(read_events, log.erasures, head.position)
    for link in walk.links(read_commits(log, head.position)):
        if link.why_bad is not None:
            return Verification(
                commits=walk.commits, events=walk.position, bad=_bad(walk, link)
            )
        if progress is not None:
            progress(walk.position, head.position)
    bad = _check_end(walk, head)
    if bad is None and (lowest < 1 or highest > head.position):
        bad = _outside(lowest, highest, head)
    return Verification(commits=walk.commits, events=walk.position, bad=bad)


def _bad(walk: Walk, link: Link) -> BadCommit:
    return BadCommit(
        command_id=link.commit.command_id,
        first_position=walk.position + 1,
        last_position=link.commit.last_position,
        why=link.why_bad or "",
    )


def _outside(lowest: int, highest: int, head: Head) -> BadCommit:
    return BadCommit(
        command_id="",
        first_position=min(lowest, head.position + 1),
        last_position=max(highest, head.position),
        why=f"rows lie at positions {lowest} to {highest},"
        f" but the head says that the log goes from 1 to {head.position}",
    )


def read_commits(log: Log, up_to: int) -> Iterator[CommitRow]:
    """Yield the commits that end at a position or before, in order."""
    after = -1
    while True:
        rows = log.commits(after=after, limit=PAGE_COMMITS)
        yield from (row for row in rows if row.last_position <= up_to)
        if len(rows) < PAGE_COMMITS or rows[-1].last_position > up_to:
            return
        after = rows[-1].last_position


class Walk:
    """Goes through a log from its first commit on and checks each against the chain.

    Events are read in pages that span many commits; at most a page and the events of one
    commit are held.
    """

    PAGE_EVENTS = 5_000

    def __init__(
        self, read_events: ReadEvents, read_erasures: ReadErasures, head: int
    ) -> None:
        self._read_events = read_events
        self._erased = ErasedHashes(read_erasures, self._read_event, head)
        self._head = head
        self._page: Iterator[RecordedEvent] = iter(())
        self._page_end = 0
        self.position = 0
        """The last position of the last commit that is as it was written."""
        self.hash = GENESIS_HASH
        self.recorded_at: int | None = None
        self.commits = 0

    def links(self, commits: Iterable[CommitRow]) -> Iterator[Link]:
        """Yield each commit with its events, up to and including the first bad one."""
        for commit in commits:
            events = list(islice(self._events(commit.last_position), commit.events))
            why_bad = self._why_bad(commit, events)
            if why_bad is None:
                self.position, self.hash = commit.last_position, commit.hash
                self.recorded_at = commit.recorded_at
                self.commits += 1
            yield Link(commit, events, why_bad)
            if why_bad is not None:
                return

    def _why_bad(self, commit: CommitRow, events: list[RecordedEvent]) -> str | None:
        if commit.last_position - commit.events != self.position:
            return f"its {commit.events} events do not follow position {self.position}"
        positions = [event.position for event in events]
        if positions != list(range(self.position + 1, commit.last_position + 1)):
            return "an event is missing or displaced"
        if any(event.recorded_at != commit.recorded_at for event in events):
            return "an event has another time than its commit"
        try:
            expected = commit_hash(
                self.hash,
                commit.command_id,
                commit.recorded_at,
                events,
                commit.rules,
                self._erased.of(events),
            )
        except ValueError as error:
            return str(error)
        return None if expected == commit.hash else "its content does not match its hash"

    def _events(self, last: int) -> Iterator[RecordedEvent]:
        last = min(last, self._head)
        while self._page_end < last:
            yield from self._page
            start = max(self._page_end, self.position)
            self._page_end = min(max(last, start + self.PAGE_EVENTS), self._head)
            self._page = iter(self._read_events(start, self._page_end))
            self._erased.load(start, self._page_end, done=self.position)
        yield from self._page

    def _read_event(self, position: int) -> RecordedEvent | None:
        found = self._read_events(position - 1, position)
        return found[0] if found else None


def _check_end(walk: Walk, head: Head) -> BadCommit | None:
    """Check that the log ends where and how its head says."""
    if head.position != walk.position:
        why = f"the log ends at position {walk.position}, its head says {head.position}"
    elif head.hash != walk.hash:
        why = "the head has another hash than the last commit"
    elif walk.commits and head.recorded_at != walk.recorded_at:
        why = "the head has another time than the last commit"
    else:
        return None
    return BadCommit(
        command_id="",
        first_position=walk.position + 1,
        last_position=max(head.position, walk.position),
        why=why,
    )
