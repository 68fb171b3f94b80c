"""The processes of one run: found wherever they hide, and stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

from orchd.processes import marks
from orchd.processes.directories import remove_directory
from orchd.processes.reaping import reaper
from orchd.processes.table import (
    ProcessEntry,
    descendants,
    marks_of,
    read_process,
    read_processes,
)
from orchd.system import System, own_pid

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.01
KILL_SECONDS_MAX = 5.0
"""How long to go on after SIGKILL; only a process stuck in the kernel lives longer."""


class ProcessTree:
    """A program that was started for a run, and everything that came of it.

    Its members are found three ways, because each alone can be escaped: as descendants of
    the program, by its session, and by the mark in their environment.
    """

    def __init__(self, system: System, pid: int, mark: str) -> None:
        self._system = system
        self._pid = pid
        self._mark = mark
        entry = read_process(pid)
        self._start = 0 if entry is None else entry.start
        self.spared: frozenset[tuple[int, int]] = frozenset()
        """Pid and start of members that are not to be counted."""
        self._hurry = asyncio.Event()

    def members(self) -> list[ProcessEntry]:
        """Return the members that are alive, the program itself included."""
        table = read_processes()
        reaper.reap(table, self._system.monotonic())
        found = {entry.pid: entry for entry in self._related(table)}
        for entry in table.values():
            if entry.pid not in found and self._is_marked(entry):
                found[entry.pid] = entry
                found.update({child.pid: child for child in descendants(table, entry.pid)})
        found.pop(own_pid(), None)
        return [
            entry
            for entry in found.values()
            if not entry.ended and (entry.pid, entry.start) not in self.spared
        ]

    def _related(self, table: dict[int, ProcessEntry]) -> list[ProcessEntry]:
        leader = table.get(self._pid)
        if leader is not None and leader.start != self._start:
            # The number was given to another process; nothing of its session is ours.
            return []
        own = [] if leader is None else [leader, *descendants(table, self._pid)]
        return own + [entry for entry in table.values() if entry.session == self._pid]

    def _is_marked(self, entry: ProcessEntry) -> bool:
        # What is older than the program cannot come of it; that spares reading most.
        return entry.start >= self._start and self._mark in marks_of(entry.pid)

    def hurry(self) -> None:
        """End the grace of a stop that is under way."""
        self._hurry.set()

    async def stop(self, grace_seconds: float) -> None:
        """Send SIGTERM to all members, and SIGKILL to those left after the grace."""
        members = self.members()
        if not members:
            return
        _signal(members, signal.SIGTERM)
        if await self._gone_within(grace_seconds, hasten=True):
            return
        if not await self._gone_within(KILL_SECONDS_MAX, kill=True):
            pids = ", ".join(str(entry.pid) for entry in self.members())
            logger.warning(
                "processes %s of %s outlived SIGKILL; the kernel is holding them",
                *(pids, self._mark),
            )

    async def _gone_within(
        self, seconds: float, *, hasten: bool = False, kill: bool = False
    ) -> bool:
        deadline = self._system.monotonic() + seconds
        while members := self.members():
            if kill:
                _signal(members, signal.SIGKILL)
            late = self._system.monotonic() >= deadline
            if late or (hasten and self._hurry.is_set()):
                return False
            await self._system.sleep(POLL_SECONDS)
        return True


def _signal(members: list[ProcessEntry], number: signal.Signals) -> None:
    for entry in members:
        reaper.condemn(entry)
        with suppress(ProcessLookupError, PermissionError):
            os.kill(entry.pid, number)


def sweep(system: System, state: str) -> int:
    """Kill what dead daemons of a state left behind, and remove their directories.

    Blocks for at most a few seconds. Living daemons of the same state are not touched.

    Args:
        state: the first part of the daemon's mark.

    Returns:
        How many processes were killed.
    """
    killed: set[tuple[int, int]] = set()
    deadline = system.monotonic() + KILL_SECONDS_MAX
    while left := _left_behind(state):
        killed.update((entry.pid, entry.start) for entry in left)
        _signal(left, signal.SIGKILL)
        if system.monotonic() >= deadline:
            break
        system.block(POLL_SECONDS)
    _remove_directories(state)
    return len(killed)


def _left_behind(state: str) -> list[ProcessEntry]:
    table = read_processes()
    found: dict[int, ProcessEntry] = {}
    for entry in table.values():
        of_state = (marks.belongs_to_dead_daemon(m, state) for m in marks_of(entry.pid))
        if any(of_state):
            found[entry.pid] = entry
            found.update({child.pid: child for child in descendants(table, entry.pid)})
    found.pop(own_pid(), None)
    return [entry for entry in found.values() if not entry.ended]


def _remove_directories(state: str) -> None:
    prefix = marks.state_directory_prefix(state)
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        owner = path.name.removeprefix(prefix).partition("-")[0]
        if marks.is_dead(owner):
            remove_directory(path)
