"""Checks the hash chain of a log from its first commit to its head."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import msgspec
import sqlalchemy as sa

from orchd_eventstore.chain import commit_hash
from orchd_eventstore.events import Head, RecordedEvent
from orchd_eventstore.schema import GENESIS_HASH
from orchd_eventstore.schema import commits as commits_table
from orchd_eventstore.schema import events as events_table

PAGE_COMMITS = 500

Progress = Callable[[int, int], None]
"""Called with (position reached, position of the head)."""
ReadEvents = Callable[[int, int], list[RecordedEvent]]
"""Given (after, up to), returns the events in between, in order."""


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


class _Commit(NamedTuple):
    last_position: int
    command_id: str
    events: int
    recorded_at: int
    hash: str
    rules: int


def verify_log(
    connection: sa.Connection,
    read_head: Callable[[], Head],
    read_events: ReadEvents,
    progress: Progress | None = None,
) -> Verification:
    """Walk through all commits; stops at the first that is not as it was written.

    The log may grow meanwhile: what is checked ends at the head as it was when the walk
    began. The bounds of all rows are taken before that head, so that a commit in
    between lies within it.
    """
    lowest, highest = _bounds(connection)
    head = read_head()
    checker = _Checker(read_events)
    for commit in _commits(connection, head.position):
        bad = checker.check(commit)
        if bad is not None:
            return Verification(commits=checker.commits, events=checker.position, bad=bad)
        if progress is not None and checker.commits % PAGE_COMMITS == 0:
            progress(checker.position, head.position)
    if progress is not None:
        progress(checker.position, head.position)
    bad = checker.check_end(head)
    if bad is None and (lowest < 1 or highest > head.position):
        bad = _outside(lowest, highest, head)
    return Verification(commits=checker.commits, events=checker.position, bad=bad)


def _bounds(connection: sa.Connection) -> tuple[int, int]:
    """Return the lowest and the highest position that any row of the log claims."""
    columns = (events_table.c.position, commits_table.c.last_position)
    lowest = [connection.scalar(sa.select(sa.func.min(column))) for column in columns]
    highest = [connection.scalar(sa.select(sa.func.max(column))) for column in columns]
    return (
        min((bound for bound in lowest if bound is not None), default=1),
        max((bound for bound in highest if bound is not None), default=0),
    )


def _outside(lowest: int, highest: int, head: Head) -> BadCommit:
    return BadCommit(
        command_id="",
        first_position=min(lowest, head.position + 1),
        last_position=max(highest, head.position),
        why=f"rows lie at positions {lowest} to {highest},"
        f" but the head says that the log goes from 1 to {head.position}",
    )


def _commits(connection: sa.Connection, up_to: int) -> Iterator[_Commit]:
    after = -1
    table = commits_table
    while True:
        query = (
            sa.select(table)
            .where(table.c.last_position > after)
            .order_by(table.c.last_position)
            .limit(PAGE_COMMITS)
        )
        rows = [_Commit(*row) for row in connection.execute(query)]
        yield from (row for row in rows if row.last_position <= up_to)
        if len(rows) < PAGE_COMMITS:
            return
        after = rows[-1].last_position


class _Checker:
    """Reads events in pages that span many commits, and compares commit by commit."""

    PAGE_EVENTS = 5_000

    def __init__(self, read_events: ReadEvents) -> None:
        self._read_events = read_events
        self._page: Iterator[RecordedEvent] = iter(())
        self._page_end = 0
        self.position = 0
        self.hash = GENESIS_HASH
        self.recorded_at: int | None = None
        self.commits = 0

    def check(self, commit: _Commit) -> BadCommit | None:
        """Check the next commit; remember it when it is as it was written."""
        why = self._why_bad(commit)
        if why is not None:
            return BadCommit(
                command_id=commit.command_id,
                first_position=self.position + 1,
                last_position=commit.last_position,
                why=why,
            )
        self.position, self.hash = commit.last_position, commit.hash
        self.recorded_at = commit.recorded_at
        self.commits += 1
        return None

    def _why_bad(self, commit: _Commit) -> str | None:
        if commit.last_position - commit.events != self.position:
            return f"its {commit.events} events do not follow position {self.position}"
        events = list(islice(self._events(commit.last_position), commit.events))
        positions = [event.position for event in events]
        if positions != list(range(self.position + 1, commit.last_position + 1)):
            return "an event is missing or displaced"
        if any(event.recorded_at != commit.recorded_at for event in events):
            return "an event has another time than its commit"
        try:
            expected = commit_hash(
                self.hash, commit.command_id, commit.recorded_at, events, commit.rules
            )
        except ValueError as error:
            return str(error)
        return None if expected == commit.hash else "its content does not match its hash"

    def _events(self, last: int) -> Iterator[RecordedEvent]:
        while self._page_end < last:
            yield from self._page
            start = max(self._page_end, self.position)
            self._page_end = max(last, start + self.PAGE_EVENTS)
            self._page = iter(self._read_events(start, self._page_end))
        yield from self._page

    def check_end(self, head: Head) -> BadCommit | None:
        """Check that the log ends where and how its head says."""
        if head.position != self.position:
            why = f"the log ends at position {self.position}, its head says {head.position}"
        elif head.hash != self.hash:
            why = "the head has another hash than the last commit"
        elif self.commits and head.recorded_at != self.recorded_at:
            why = "the head has another time than the last commit"
        else:
            return None
        return BadCommit(
            command_id="",
            first_position=self.position + 1,
            last_position=max(head.position, self.position),
            why=why,
        )
