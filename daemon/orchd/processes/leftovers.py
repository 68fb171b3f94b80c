"""Ends processes that nobody supervises any more, found by their marks."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

from orchd.processes import marks
from orchd.processes.directories import remove_directory
from orchd.processes.table import (
    ProcessEntry,
    descendants,
    marks_of,
    read_processes,
    send_signal,
)
from orchd.system import System, own_pid

POLL_SECONDS = 0.01
KILL_SECONDS_MAX = 5.0
"""How long to go on after SIGKILL; only a process stuck in the kernel lives longer."""
SUPERVISOR_SECONDS_MAX = 2.0
"""How long supervisors whose daemon died may take to kill what they have."""


def end_marked(system: System, mark: str) -> None:
    """Kill the processes of a run whose supervisor was killed. Blocks while it lasts."""
    _kill_all(system, lambda: _carriers(lambda own: own == mark))


def sweep(system: System, state: str) -> int:
    """Kill what dead daemons of a state left behind, and remove their directories.

    Blocks for at most a few seconds. Living daemons of the same state are not touched.

    Args:
        state: the first part of the daemon's mark.

    Returns:
        How many processes were killed.
    """
    # A look at all processes takes as long as a small import; mostly one is enough.
    killed = _end_left_behind(system, state) if left_behind(state) else 0
    _remove_directories(state)
    return killed


def _end_left_behind(system: System, state: str) -> int:
    # Supervisors end by themselves what they have, also what shows no mark any more.
    deadline = system.monotonic() + SUPERVISOR_SECONDS_MAX
    while _supervisors(state) and system.monotonic() < deadline:
        system.block(POLL_SECONDS)
    return _kill_all(system, lambda: left_behind(state))


def left_behind(state: str) -> list[ProcessEntry]:
    """Return the living processes of runs of a state whose daemon is gone."""
    return _carriers(lambda own: marks.belongs_to_dead_daemon(own, state))


def _kill_all(system: System, find: Callable[[], list[ProcessEntry]]) -> int:
    killed: set[tuple[int, int]] = set()
    deadline = system.monotonic() + KILL_SECONDS_MAX
    while left := find():
        for entry in left:
            killed.add((entry.pid, entry.start))
            send_signal(entry, signal.SIGKILL)
        if system.monotonic() >= deadline:
            break
        system.block(POLL_SECONDS)
    return len(killed)


def _carriers(is_wanted: Callable[[str], bool]) -> list[ProcessEntry]:
    """Return the living processes that carry such a mark, and all that came of them."""
    table = read_processes()
    found: dict[int, ProcessEntry] = {}
    for entry in table.values():
        if any(map(is_wanted, marks_of(entry.pid))):
            found[entry.pid] = entry
            found.update({child.pid: child for child in descendants(table, entry.pid)})
    found.pop(own_pid(), None)
    return [entry for entry in found.values() if not entry.ended]


def _supervisors(state: str) -> list[ProcessEntry]:
    return _carriers(
        lambda own: marks.is_fork_server(own) and marks.belongs_to_dead_daemon(own, state)
    )


def _remove_directories(state: str) -> None:
    prefix = marks.state_directory_prefix(state)
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        owner = path.name.removeprefix(prefix).partition("-")[0]
        if marks.is_dead(owner):
            remove_directory(path)
