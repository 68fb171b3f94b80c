"""Examines a state: configuration, database, log, and every rule the design promises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from typing import Protocol

from orchd.config.settings import Settings
from orchd.errors import OrchdError, StateMissing
from orchd.ledger.urls import masked_url
from orchd.maintenance import (
    database_checks,
    log_checks,
    machine_checks,
    program_checks,
    task_checks,
)
from orchd.maintenance.erasing import carry_out, drop_orphan
from orchd.maintenance.findings import (
    SHOWN_MAX,
    Check,
    Examination,
    Finding,
    counted,
    fail,
    mended,
    ok,
    warn,
)
from orchd.maintenance.mending import Mender
from orchd.maintenance.opening import reading, writing
from orchd.maintenance.progress import Progress, silent
from orchd.maintenance.replay import Options, mend
from orchd.system import System
from orchd_eventstore import EventStoreError

CHECKS: dict[str, Check] = {
    "programs": program_checks.programs,
    "database": database_checks.database,
    "disk": database_checks.disk,
    "clock": database_checks.clock,
    "log": log_checks.log,
    "streams": log_checks.streams,
    "projections": log_checks.projections,
    "tasks": task_checks.tasks,
    "runs": log_checks.runs,
    "erasures": log_checks.erasures,
    "bodies": task_checks.bodies,
    "workers": task_checks.workers,
    "processes": machine_checks.processes,
    "files": machine_checks.files,
}


class DaemonHands(Mender, Protocol):
    """What the daemon that has a SQLite state open does for the doctor."""

    def erase(self, task_id: str) -> None:
        """Finish erasing a task."""
        ...


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
    if config_problem:
        hint = "mend the file or the variable that is named"
        yield fail("configuration", config_problem, hint)
    else:
        yield ok("configuration", "it can be used")
    with ExitStack() as stack:
        try:
            reader = stack.enter_context(reading(settings.database, system=system))
        except OrchdError as error:
            yield _unusable(error)
            return
        yield ok("state", f"{masked_url(settings.database)} has a current schema")
        yield from _look(Examination(settings, system, reader, progress or silent), CHECKS)


def _look(examination: Examination, checks: dict[str, Check]) -> Iterator[Finding]:
    for name, look in checks.items():
        try:
            yield from look(examination)
        except (OrchdError, EventStoreError) as error:
            yield fail(name, str(error))


def _unusable(error: OrchdError) -> Finding:
    if isinstance(error, StateMissing):
        return warn("state", str(error))
    return fail("state", str(error))


# --- repairs --------------------------------------------------------------------------


def repair(
    settings: Settings,
    *,
    system: System,
    progress: Progress | None = None,
    daemon: DaemonHands | None = None,
) -> Iterator[Finding]:
    """Repair what can be, yielding what was done, then examine.

    Args:
        daemon: who writes instead of this process, because the SQLite state is its own.
    """
    with ExitStack() as stack:
        try:
            reader = stack.enter_context(reading(settings.database, system=system))
        except OrchdError as error:
            yield _unusable(error)
            return
        examination = Examination(settings, system, reader, progress or silent)
        repairs: dict[str, Check] = {
            "projections": lambda e: _mend_rows(e, daemon),
            "erasures": lambda e: _finish_erasures(e, daemon),
            "bodies": lambda e: _drop_orphans(e, daemon),
            "processes": _end_processes,
            "files": _remove_files,
        }
        yield from _look(examination, repairs)
    yield from examine(settings, system=system, progress=progress)


def _mend_rows(examination: Examination, daemon: DaemonHands | None) -> Iterator[Finding]:
    differences = mend(
        examination.settings.database,
        system=examination.system,
        options=Options(progress=examination.progress),
        mender=daemon,
    )
    for difference in islice(differences, SHOWN_MAX):
        yield mended("projections", str(difference))
    more = sum(1 for _ in differences)
    if more:
        yield mended("projections", f"{counted(more, 'more difference')} from the log")


def _finish_erasures(
    examination: Examination, daemon: DaemonHands | None
) -> Iterator[Finding]:
    for task_id in log_checks.unfinished_erasures(examination):
        if daemon is not None:
            daemon.erase(task_id)
        else:
            with writing(examination.settings.database, system=examination.system) as store:
                carry_out(store, task_id)
        yield mended("erasures", f"task {task_id} is erased now")


def _drop_orphans(
    examination: Examination, daemon: DaemonHands | None
) -> Iterator[Finding]:
    names = task_checks.orphans(examination)
    if not names:
        return
    if daemon is not None:
        yield warn(
            "bodies",
            "a daemon has the state open, so nobody's bodies stay",
            "run `orchd doctor --repair` while no daemon runs",
        )
        return
    with writing(examination.settings.database, system=examination.system) as store:
        gone = sum(drop_orphan(store, name) for name in names)
    yield mended("bodies", f"removed {counted(gone, 'body', 'bodies')} of no event")


def _end_processes(examination: Examination) -> Iterator[Finding]:
    ended = machine_checks.end_processes(examination)
    if ended:
        what = counted(ended, "process", "processes")
        yield mended("processes", f"ended {what} of a dead daemon")


def _remove_files(examination: Examination) -> Iterator[Finding]:
    for path in machine_checks.remove_files(examination):
        yield mended("files", f"removed {path}")
