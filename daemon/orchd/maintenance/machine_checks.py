"""What dead processes left on this machine: running tasks, sockets, parts of files."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from orchd.config import places
from orchd.errors import ConfigurationError
from orchd.ledger.locking import current_owner
from orchd.ledger.urls import is_sqlite, sqlite_path
from orchd.maintenance.checkpoint_writer import stale_parts
from orchd.maintenance.checkpoints import default_directory
from orchd.maintenance.findings import SHOWN_MAX, Examination, Finding, counted, ok, warn
from orchd.processes.leftovers import left_behind, sweep

PROBE_SECONDS = 1.0


def processes(examination: Examination) -> Iterator[Finding]:
    """Look for processes of runs whose daemon is gone."""
    found = left_behind(places.state_hash(examination.settings.database))
    if not found:
        yield ok("processes", "no process of a dead daemon is alive on this machine")
        return
    pids = ", ".join(str(entry.pid) for entry in found[:SHOWN_MAX])
    what = counted(len(found), "process", "processes")
    hint = "the next daemon ends them, and so does `orchd doctor --repair`"
    yield warn("processes", f"{what} of a dead daemon still at work: {pids}", hint)


def end_processes(examination: Examination) -> int:
    """End the processes of runs whose daemon is gone; return how many."""
    return sweep(examination.system, places.state_hash(examination.settings.database))


def files(examination: Examination) -> Iterator[Finding]:
    """Look at the socket, the lock, and what was left of unfinished work."""
    database = examination.settings.database
    yield from _door(database)
    stale = stale_files(examination)
    for path in stale[:SHOWN_MAX]:
        hint = "harmless; `orchd doctor --repair` removes it"
        yield warn("files", f"a dead process left {path}", hint)
    if not stale:
        yield ok("files", "nothing lies about that a dead process left")


def _door(database: str) -> Iterator[Finding]:
    path = _socket_path(database)
    answers = path is not None and _answers(path)
    owner = current_owner(sqlite_path(database)) if is_sqlite(database) else None
    if answers:
        yield ok("files", f"a daemon answers at {path}")
    elif owner is not None:
        yield warn(
            "files",
            f"{owner} has the state open, but nobody answers at {path or 'its socket'}",
            "a command with another XDG_RUNTIME_DIR cannot find it; else it is starting, "
            "stopping, or stuck",
        )


def stale_files(examination: Examination) -> list[Path]:
    """Return files that dead processes left and that nobody needs."""
    database = examination.settings.database
    found = list(stale_parts(default_directory(database)))
    path = _socket_path(database)
    if path is not None and path.exists() and path.is_socket() and not _answers(path):
        found.append(path)
    return found


def remove_files(examination: Examination) -> list[Path]:
    """Remove the stale files; return those that are gone."""
    removed = []
    for path in stale_files(examination):
        with suppress(OSError):
            path.unlink()
            removed.append(path)
    return removed


def _socket_path(database: str) -> Path | None:
    try:
        return places.socket_path(database, os.environ)
    except ConfigurationError:
        return None


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
