"""Reads the kernel's list of processes (proc(5))."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec

PROC = Path("/proc")
MARK_VARIABLE = "ORCHD_RUN_MARK"
"""Names, in the environment of every process of a run, the run that it belongs to."""
_MARK_PREFIX = MARK_VARIABLE.encode() + b"="


class ProcessEntry(msgspec.Struct, frozen=True):
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
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return ProcessEntry(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        start=int(fields[19]),
        ended=fields[0] in ("Z", "X"),
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
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return ()
    for variable in environment.split(b"\0"):
        if variable.startswith(_MARK_PREFIX):
            text = variable[len(_MARK_PREFIX) :].decode("utf-8", "replace")
            return tuple(text.split(" "))
    return ()


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
