"""The log, and what follows from it: chain, streams, rows, runs, erasures."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from orchd.errors import StateUnreadable
from orchd.maintenance.erasing import is_unfinished
from orchd.maintenance.findings import (
    SHOWN_MAX,
    Examination,
    Finding,
    counted,
    fail,
    ok,
    warn,
)
from orchd.maintenance.replay import Options, check
from orchd.maintenance.runs import broken_rules
from orchd.maintenance.verifying import verify_log

_GAPS = (
    "SELECT stream, count(*), max(version) FROM events GROUP BY stream"
    f" HAVING count(*) <> max(version) OR min(version) <> 1 LIMIT {SHOWN_MAX}"
)
_ERASED_STREAMS = "SELECT DISTINCT stream FROM events WHERE type = 'task.erased'"


def log(examination: Examination) -> Iterator[Finding]:
    """Verify positions, commits, the hash chain and the head."""
    verdict = verify_log(
        examination.settings.database,
        system=examination.system,
        progress=examination.progress,
    )
    if verdict.ok:
        events = counted(verdict.events, "event")
        commits = counted(verdict.commits, "commit")
        yield ok("log", f"{events} in {commits}, chain unbroken")
        return
    hint = "restore a checkpoint into an empty database; keep this one for analysis"
    yield fail("log", verdict.problem, hint)


def streams(examination: Examination) -> Iterator[Finding]:
    """Look for versions that are missing within a stream."""
    with examination.reader.snapshot(patient=True) as snapshot:
        gaps = snapshot.all(_GAPS)
    for stream, events, version in gaps:
        detail = f"{stream} has {counted(events, 'event')}, but its version is {version}"
        yield fail("streams", detail, "please report it: no daemon may write this")
    if not gaps:
        yield ok("streams", "versions are dense in every stream")


def projections(examination: Examination) -> Iterator[Finding]:
    """Compare every row and counter with the log."""
    differences = check(
        examination.settings.database,
        system=examination.system,
        options=Options(progress=examination.progress),
    )
    first = list(islice(differences, SHOWN_MAX))
    more = sum(1 for _ in differences)
    for difference in first:
        hint = "`orchd replay` mends it from the log"
        yield fail("projections", str(difference), hint)
    if more:
        detail = f"{counted(more, 'more difference')}; `orchd replay --check` lists all"
        yield fail("projections", detail)
    if not first:
        yield ok("projections", "every row and every counter is what the log says")


def runs(examination: Examination) -> Iterator[Finding]:
    """Check the rules that every run of a task obeys."""
    found = broken_rules(examination.reader.store, examination.progress)
    broken = list(islice(found, SHOWN_MAX))
    for sentence in broken:
        yield fail("runs", sentence, "please report it: no daemon may write this")
    if not broken:
        yield ok("runs", "every run that started ended once, or is under way")


def erasures(examination: Examination) -> Iterator[Finding]:
    """Look for erasures that the log announces and that were not carried out."""
    begun = unfinished_erasures(examination)
    for task_id in begun[:SHOWN_MAX]:
        detail = f"erasing task {task_id} was cut short"
        yield warn("erasures", detail, f"orchd task erase {task_id}")
    if len(begun) > SHOWN_MAX:
        yield warn("erasures", f"and {len(begun) - SHOWN_MAX:,} more were cut short")
    if not begun:
        yield ok("erasures", "whatever was to be erased is")


def unfinished_erasures(examination: Examination) -> list[str]:
    """Return the tasks that the log calls erased although they are not."""
    reader = examination.reader
    with reader.snapshot(patient=True) as snapshot:
        names = sorted(row[0] for row in snapshot.all(_ERASED_STREAMS))
    found = []
    for name in names:
        try:
            if is_unfinished(reader.store.read_stream(name)):
                found.append(name.removeprefix("task-"))
        except StateUnreadable:
            # Whoever folds the stream says what is wrong with it.
            continue
    return found
