"""Verifies the log's hash chain, beside whoever appends to it."""

from __future__ import annotations

from typing import Any

import msgspec

from orchd.maintenance.opening import reading
from orchd.maintenance.progress import Progress, silent
from orchd.maintenance.reading import StateReader
from orchd.system import System
from orchd_eventstore import BadCommit


class LogVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What verifying the log found."""

    ok: bool
    commits: int
    """Commits that are as they were written."""
    events: int
    position: int
    """The log's end when the verification began."""
    hash: str
    """The head's hash; whoever keeps it elsewhere can tell a log that was cut."""
    problem: str
    """What is wrong, naming the commit; empty when nothing is."""

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as a JSON object."""
        return msgspec.structs.asdict(self)


def verify_log(
    url: str, *, system: System, progress: Progress | None = None, known: str | None = None
) -> LogVerdict:
    """Check every commit against the hash chain; stop at the first bad one.

    Args:
        known: the hash of a commit that was once the log's last, kept elsewhere. A log
            whose end was cut off has an unbroken chain, but not that commit.

    Raises:
        StateMissing: there is no state.
    """
    tell = progress or silent
    with reading(url, system=system) as reader:
        head = reader.store.head()
        found = reader.store.verify(lambda done, total: tell("events", done, total))
        problem = "" if found.bad is None else _sentence(found.bad)
        if found.ok and known is not None and not _has(reader, known):
            problem = f"no commit has the hash {known}: it was cut off, or of another log"
    return LogVerdict(
        ok=not problem,
        commits=found.commits,
        events=found.events,
        position=head.position,
        hash=head.hash,
        problem=problem,
    )


def _has(reader: StateReader, known: str) -> bool:
    with reader.snapshot(patient=True) as snapshot:
        return bool(snapshot.all("SELECT 1 FROM commits WHERE hash = ? LIMIT 1", (known,)))


def _sentence(bad: BadCommit) -> str:
    where = f"events {bad.first_position} to {bad.last_position}"
    if not bad.command_id:
        return f"{where}: {bad.why}"
    return f"commit {bad.command_id} ({where}): {bad.why}"
