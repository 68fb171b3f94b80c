"""Examines a state: configuration, database, log, and every rule the design promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import Any, Literal

import msgspec

from orchd.config.settings import Settings
from orchd.errors import OrchdError, StateMissing
from orchd.ledger.urls import masked_url
from orchd.maintenance.opening import reading
from orchd.maintenance.progress import Progress, silent
from orchd.maintenance.reading import StateReader
from orchd.maintenance.replay import check, mend
from orchd.maintenance.runs import broken_rules
from orchd.maintenance.verifying import verify_log
from orchd.system import System
from orchd_eventstore import EventStoreError
from orchd_eventstore.sqlite import driver

SHOWN_MAX = 5
"""Most differences that one finding names."""
SAFE_SQLITE = (3, 51, 3)
"""The first release whose WAL mode does not lose data when two connections write."""
PATCHED_SQLITE = {(3, 50): 7, (3, 44): 6}
"""Older series with the fix -> the first patch release that has it."""
DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}

Level = Literal["ok", "warn", "fail"]
Check = Callable[["_Examination"], Iterator["Finding"]]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one check found."""

    check: str
    level: Level
    detail: str
    hint: str = ""
    """What to do; empty when nothing is wrong."""

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as a JSON object."""
        return msgspec.structs.asdict(self)


class _Examination(msgspec.Struct, frozen=True):
    """What the checks look at."""

    settings: Settings
    system: System
    reader: StateReader
    progress: Progress


def examine(
    settings: Settings,
    *,
    system: System,
    config_problem: str = "",
    progress: Progress | None = None,
) -> Iterator[Finding]:
    """Yield what each check finds; changes nothing, and may run beside a daemon.

    Args:
        config_problem: why the configuration could not be used, if it could not.
    """
    yield _configuration(config_problem)
    with ExitStack() as stack:
        try:
            reader = stack.enter_context(reading(settings.database, system=system))
        except OrchdError as error:
            yield _unusable(error)
            return
        shown = masked_url(settings.database)
        yield Finding(check="state", level="ok", detail=f"{shown} has a current schema")
        examination = _Examination(settings, system, reader, progress or silent)
        for name, look in CHECKS.items():
            try:
                yield from look(examination)
            except (OrchdError, EventStoreError) as error:
                yield Finding(check=name, level="fail", detail=str(error))


def repair(
    settings: Settings, *, system: System, progress: Progress | None = None
) -> Iterator[Finding]:
    """Mend what follows from the log, then examine; yields what was mended first."""
    try:
        mended = sum(1 for _ in mend(settings.database, system=system, progress=progress))
    except OrchdError as error:
        yield Finding(check="repair", level="fail", detail=str(error))
    else:
        detail = f"{mended} differences were mended from the log"
        yield Finding(check="repair", level="ok", detail=detail)
    yield from examine(settings, system=system, progress=progress)


def _configuration(problem: str) -> Finding:
    if problem:
        hint = "mend the file or the variable that is named"
        return Finding(check="configuration", level="fail", detail=problem, hint=hint)
    return Finding(check="configuration", level="ok", detail="it can be used")


def _unusable(error: OrchdError) -> Finding:
    if isinstance(error, StateMissing):
        hint = "`orchd serve` or a submission makes one"
        return Finding(check="state", level="warn", detail=str(error), hint=hint)
    return Finding(check="state", level="fail", detail=str(error))


# --- the database ---------------------------------------------------------------------


def _database(examination: _Examination) -> Iterator[Finding]:
    if examination.reader.dialect.is_postgresql:
        yield from _postgresql(examination.reader)
    else:
        yield from _sqlite(examination.reader)


def _sqlite(reader: StateReader) -> Iterator[Finding]:
    module = driver()
    version = module.sqlite_version
    if is_safe_sqlite(tuple(int(part) for part in version.split("."))):
        yield Finding(check="database", level="ok", detail=f"SQLite {version}")
    else:
        yield Finding(
            check="database",
            level="warn",
            detail=f"SQLite {version} can corrupt a database that two programs write to",
            hint="install a release from 3.51.3 on; write through the daemon only",
        )
    with reader.snapshot() as snapshot:
        mode = snapshot.all("PRAGMA journal_mode")[0][0]
        problems = [row[0] for row in snapshot.all("PRAGMA quick_check(5)")]
    level: Level = "ok" if mode == "wal" else "warn"
    yield Finding(check="database", level=level, detail=f"journal mode {mode}")
    if problems != ["ok"]:
        yield Finding(
            check="database",
            level="fail",
            detail="the file is damaged: " + "; ".join(problems),
            hint="restore a checkpoint into a new file, and look at the disk",
        )


def is_safe_sqlite(version: tuple[int, ...]) -> bool:
    """Tell whether a SQLite release has the fix of its WAL mode."""
    patched = PATCHED_SQLITE.get((version[0], version[1]))
    if patched is not None and version[2] >= patched:
        return True
    return version >= SAFE_SQLITE or version < (3, 7, 0)


def _postgresql(reader: StateReader) -> Iterator[Finding]:
    with reader.snapshot() as snapshot:
        release = snapshot.all("SHOW server_version")[0][0]
        found = {name: snapshot.all(f"SHOW {name}")[0][0] for name in DURABLE}
    yield Finding(check="database", level="ok", detail=f"PostgreSQL {release}")
    for name, value in found.items():
        if value == DURABLE[name]:
            yield Finding(check="database", level="ok", detail=f"{name} is {value}")
        else:
            yield Finding(
                check="database",
                level="fail",
                detail=f"{name} is {value}: what was acknowledged can be lost",
                hint=f"set {name} = {DURABLE[name]} in postgresql.conf",
            )


# --- the rules ------------------------------------------------------------------------


def _log(examination: _Examination) -> Iterator[Finding]:
    verdict = verify_log(
        examination.settings.database,
        system=examination.system,
        progress=examination.progress,
    )
    if verdict.ok:
        detail = f"{verdict.events} events in {verdict.commits} commits, chain unbroken"
        yield Finding(check="log", level="ok", detail=detail)
        return
    hint = "restore a checkpoint into an empty database; keep this one for analysis"
    yield Finding(check="log", level="fail", detail=verdict.problem, hint=hint)


def _projections(examination: _Examination) -> Iterator[Finding]:
    differences = check(
        examination.settings.database,
        system=examination.system,
        progress=examination.progress,
    )
    first = list(islice(differences, SHOWN_MAX))
    more = sum(1 for _ in differences)
    for difference in first:
        yield Finding(
            check="projections",
            level="fail",
            detail=str(difference),
            hint="`orchd replay` mends it from the log",
        )
    if more:
        detail = f"{more} more differences; `orchd replay --check` lists all"
        yield Finding(check="projections", level="fail", detail=detail)
    if not first:
        detail = "every row is what the log says"
        yield Finding(check="projections", level="ok", detail=detail)


def _runs(examination: _Examination) -> Iterator[Finding]:
    broken = list(
        islice(broken_rules(examination.reader.store, examination.progress), SHOWN_MAX)
    )
    for sentence in broken:
        yield Finding(check="runs", level="fail", detail=sentence)
    if not broken:
        detail = "every run that started ended once, or is under way"
        yield Finding(check="runs", level="ok", detail=detail)


def _attempts(examination: _Examination) -> Iterator[Finding]:
    with examination.reader.snapshot() as snapshot:
        over = snapshot.all(
            "SELECT id, attempts, max_attempts FROM tasks WHERE attempts > max_attempts"
            f" ORDER BY id LIMIT {SHOWN_MAX}"
        )
    for task_id, attempts, allowed in over:
        detail = f"task {task_id} has {attempts} attempts, {allowed} were allowed"
        yield Finding(check="attempts", level="fail", detail=detail)
    if not over:
        detail = "no task has more attempts than it may"
        yield Finding(check="attempts", level="ok", detail=detail)


def _workers(examination: _Examination) -> Iterator[Finding]:
    now = examination.reader.store.now()
    with examination.reader.snapshot() as snapshot:
        held = snapshot.all(
            "SELECT worker, count(*) FROM tasks WHERE status = 'in_progress'"
            " GROUP BY worker ORDER BY worker"
        )
        leases = snapshot.all("SELECT id, host, pid, expires_at, fenced FROM workers")
    live = {row[0] for row in leases if row[3] > now and not row[4]}
    stale = [(worker, count) for worker, count in held if worker not in live]
    for worker, count in stale:
        yield Finding(
            check="workers",
            level="warn",
            detail=f"worker {worker} is gone and holds {count} tasks",
            hint="a daemon takes them back as soon as one runs",
        )
    if not stale:
        detail = f"{len(live)} at work; no task is held by one that is gone"
        yield Finding(check="workers", level="ok", detail=detail)


_MISSING_BLOBS = (
    "SELECT id FROM tasks AS t WHERE {column} IS NOT NULL AND NOT EXISTS"
    " (SELECT 1 FROM blobs AS b WHERE b.hash = t.{column})"
)
_BODIES = ("description_blob", "payload_blob", "result_blob")


def _blobs(examination: _Examination) -> Iterator[Finding]:
    union = " UNION ".join(_MISSING_BLOBS.format(column=column) for column in _BODIES)
    with examination.reader.snapshot() as snapshot:
        missing = [row[0] for row in snapshot.all(f"{union} ORDER BY 1")]
        wrong = snapshot.all("SELECT hash FROM blobs WHERE length(body) <> size")
    if wrong:
        detail = f"{len(wrong)} bodies have not the length they were stored with"
        yield Finding(check="bodies", level="fail", detail=detail)
    if missing:
        names = ", ".join(missing[:SHOWN_MAX])
        yield Finding(
            check="bodies",
            level="warn",
            detail=f"bodies of {len(missing)} tasks were erased: {names}",
        )
    if not wrong and not missing:
        yield Finding(check="bodies", level="ok", detail="every large body is there")


CHECKS: dict[str, Check] = {
    "database": _database,
    "log": _log,
    "projections": _projections,
    "runs": _runs,
    "attempts": _attempts,
    "workers": _workers,
    "bodies": _blobs,
}
