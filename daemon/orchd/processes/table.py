"""Reads the kernel's list of processes (proc(5)), and sends signals that hit no other.

Imports nothing but the standard library: the fork server has to stay small.
"""

from __future__ import annotations

import functools
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PROC = "/proc"
MARK_VARIABLE = "ORCHD_RUN_MARK"
"""Names, in the environment of every process of a run, the run that it belongs to."""
_MARK_PREFIX = MARK_VARIABLE.encode() + b"="


class ProcessEntry(NamedTuple):
    """One process. `start` is in clock ticks since boot: pid and start name it for good."""

    pid: int
    parent: int
    session: int
    start: int
    ended: bool
    """Whether it is only waiting to be reaped."""


def read_process(pid: int) -> ProcessEntry | None:
    """Return the process `pid`, or None when there is none."""
    try:
        with open(f"{PROC}/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    fields = text.rpartition(b")")[2].split()
    return ProcessEntry(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        start=int(fields[19]),
        ended=fields[0] in (b"Z", b"X"),
    )


def read_processes() -> dict[int, ProcessEntry]:
    """Return all processes that can be seen, by pid; empty where there is no /proc."""
    found: dict[int, ProcessEntry] = {}
    with suppress(OSError):
        for name in os.listdir(PROC):
            if name.isdigit() and (entry := read_process(int(name))) is not None:
                found[entry.pid] = entry
    return found


def marks_of(pid: int) -> tuple[str, ...]:
    """Return the marks of the runs that a process belongs to, outermost first.

    A run inside a run (a task that itself runs orchd) carries both.
    """
    try:
        environment = Path(f"{PROC}/{pid}/environ").read_bytes()
    except OSError:
        return ()
    for variable in environment.split(b"\0"):
        if variable.startswith(_MARK_PREFIX):
            text = variable[len(_MARK_PREFIX) :].decode("utf-8", "replace")
            return tuple(text.split(" "))
    return ()


def children_of(pid: int) -> list[int]:
    """Return the ids of the children of a process, ended ones included.

    Costs as much as the process has threads and children, not as the machine has
    processes, wherever the kernel lists children (CONFIG_PROC_CHILDREN).
    """
    if not _lists_children():
        return [e.pid for e in read_processes().values() if e.parent == pid]
    found: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"{PROC}/{pid}/task"):
            # A thread that has just ended has left its children to another one.
            with suppress(OSError):
                with open(f"{PROC}/{pid}/task/{thread}/children", "rb") as file:
                    found.extend(map(int, file.read().split()))
    return found


@functools.cache
def _lists_children() -> bool:
    pid = os.getpid()
    return os.path.exists(f"{PROC}/{pid}/task/{pid}/children")


def descendants(table: dict[int, ProcessEntry], pid: int) -> list[ProcessEntry]:
    """Return the children of a process, their children, and so on."""
    children: dict[int, list[ProcessEntry]] = {}
    for entry in table.values():
        children.setdefault(entry.parent, []).append(entry)
    found: list[ProcessEntry] = []
    waiting = list(children.get(pid, ()))
    while waiting:
        entry = waiting.pop()
        found.append(entry)
        waiting.extend(children.get(entry.pid, ()))
    return found


def descendants_of(pid: int) -> list[ProcessEntry]:
    """Return what is alive below a process, parents before their children.

    What forks meanwhile may be missed, so whoever has to get them all asks again.
    """
    found: list[ProcessEntry] = []
    waiting = children_of(pid)
    while waiting:
        entry = read_process(waiting.pop())
        if entry is not None and not entry.ended:
            found.append(entry)
            waiting.extend(children_of(entry.pid))
    return found


def send_signal(entry: ProcessEntry, number: int) -> None:
    """Send a signal to this very process, never to a later one with its number.

    A process that has ended, or that belongs to somebody else, is left alone.
    """
    try:
        descriptor = os.pidfd_open(entry.pid)
    except OSError:
        return
    try:
        now = read_process(entry.pid)
        if now is not None and now.start == entry.start:
            with suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)
