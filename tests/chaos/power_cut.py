"""What a power cut would leave of a daemon's files, replayed from its system calls.

`strace` writes down what the daemon asks the kernel to do. From that follows, for every
moment, what was certainly on the disk (written before a sync that has ended) and what may
or may not have been (written since). A cut takes a moment and chance decides, page by page,
what of the rest got there. When a sync fails, chance decides likewise, and for good: the
kernel forgets what it could not write, and the next sync says nothing of it. Names of files
are taken for durable at once, as on a file system that orders its metadata.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PAGE_BYTES = 4096
CALLS = "openat,write,pwrite64,fsync,fdatasync,ftruncate,unlink,unlinkat,sendto,sendmsg"
SYNCS = ("fsync", "fdatasync")
STRACE = (
    *("strace", "-f", "-y", "-xx", "-s", "10000000", "-e", f"trace={CALLS}"),
    *("-A", "-o"),
)
"""Starts a program under the tracer; the name of the trace follows, which is added to."""

_LINE = re.compile(r"^(\d+)\s+(.*)$")
_CALL = re.compile(r"^(\w+)\((.*)\)\s+= (-?\d+)")
_RESUMED = re.compile(r"^<\.\.\. (\w+) resumed>(.*)$")
_HEX = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_PATH = re.compile(r"^\d+<([^>]*)>")
_ACKNOWLEDGED = re.compile(rb'"id":"([^"]+)"')


class Call(NamedTuple):
    """A system call that has ended well, or a sync that has not."""

    name: str
    began: int
    """Place in the trace at which it began; the calls are in the order of their ends."""
    ended: int
    path: str
    """The file, with strace's quoting undone, or the socket."""
    data: bytes = b""
    number: int = 0
    """Offset of a write, or length after a truncation."""
    failed: bool = False


def read_trace(trace: Path) -> list[Call]:
    """Return the calls in the order in which they ended."""
    return list(_calls(trace))


def _calls(trace: Path) -> Iterator[Call]:
    begun: dict[str, tuple[int, str]] = {}
    with trace.open() as lines:
        for place, line in enumerate(lines):
            match = _LINE.match(line)
            if match is None:
                continue
            thread, text = match.groups()
            began = place
            if text.endswith("<unfinished ...>"):
                begun[thread] = (place, text.removesuffix("<unfinished ...>").rstrip())
                continue
            resumed = _RESUMED.match(text)
            if resumed is not None:
                began, head = begun.pop(thread, (place, ""))
                text = head + resumed[2]
            call = _parsed(text, began, place)
            if call is not None:
                yield call


def _parsed(text: str, began: int, ended: int) -> Call | None:
    match = _CALL.match(text)
    if match is None:
        return None
    name, arguments, failed = match[1], match[2], int(match[3]) < 0
    if failed and name not in SYNCS:
        return None
    if name in ("unlink", "unlinkat"):
        return Call(name, began, ended, _unquoted(arguments).decode(errors="replace"))
    path = _PATH.match(arguments)
    if path is None:
        return None
    # Paths are quoted like data, but without the quotation marks.
    file = _unquoted(f'"{path[1]}"').decode(errors="replace") or path[1]
    number = 0
    if name in ("pwrite64", "ftruncate"):
        number = int(arguments.rpartition(", ")[2])
    return Call(name, began, ended, file, _unquoted(arguments), number, failed)


def _unquoted(arguments: str) -> bytes:
    found = _HEX.search(arguments)
    return b"" if found is None else bytes.fromhex(found[1].replace("\\x", ""))


class _File:
    """One file: what is on the disk, and what was written since the last sync."""

    def __init__(self, content: bytes = b"") -> None:
        self._durable = bytearray(content)
        self._pending: list[Call] = []

    def write(self, call: Call) -> None:
        self._pending.append(call)

    def sync(self, call: Call) -> None:
        """Take over what had been written before the sync began."""
        for written in self._pending:
            if written.ended < call.began:
                _apply(self._durable, written)
        self._pending = [w for w in self._pending if w.ended >= call.began]

    def fail(self, call: Call, chance: random.Random) -> None:
        """Lose part of what had been written before a sync began that failed."""
        for written in self._pending:
            if written.ended < call.began:
                for part in _arrived(written, chance):
                    _apply(self._durable, part)
        self._pending = [w for w in self._pending if w.ended >= call.began]

    def after_cut(self, chance: random.Random) -> bytes:
        """Return what is found after the cut: pages of the rest got there, or did not."""
        content = bytearray(self._durable)
        for written in self._pending:
            for part in _arrived(written, chance):
                _apply(content, part)
        return bytes(content)


def _arrived(written: Call, chance: random.Random) -> Iterator[Call]:
    """Yield what of a write, page by page, or of a truncation got to the disk."""
    if written.name == "ftruncate":
        if chance.random() < 0.5:
            yield written
        return
    for start in range(0, len(written.data), PAGE_BYTES):
        if chance.random() < 0.5:
            page = written.data[start : start + PAGE_BYTES]
            yield written._replace(data=page, number=written.number + start)


def _apply(content: bytearray, call: Call) -> None:
    if call.name == "ftruncate":
        del content[call.number :]
        content.extend(b"\0" * (call.number - len(content)))
        return
    end = call.number + len(call.data)
    content.extend(b"\0" * (end - len(content)))
    content[call.number : end] = call.data


class Disk:
    """The files of a state below one directory, from the beginning of a trace on."""

    def __init__(self, directory: Path, before: Path, chance: random.Random) -> None:
        """Args:
        directory: where the daemon had its state.
        before: a copy of that directory as it was when the trace began.
        """
        self._chance = chance
        self._prefix = f"{directory}/"
        self._files = {
            path.name: _File(path.read_bytes())
            for path in before.iterdir()
            if path.is_file()
        }
        self.acknowledged: set[str] = set()
        """Ids of the tasks whose submission had been answered."""

    def follow(self, call: Call) -> None:
        """Take note of one more call."""
        if call.name in ("sendto", "sendmsg", "write") and b'"status":' in call.data:
            self.acknowledged.update(i.decode() for i in _ACKNOWLEDGED.findall(call.data))
        if not call.path.startswith(self._prefix):
            return
        name = call.path.removeprefix(self._prefix)
        if call.name in ("unlink", "unlinkat"):
            self._files.pop(name, None)
            return
        file = self._files.setdefault(name, _File())
        if call.failed:
            file.fail(call, self._chance)
        elif call.name in SYNCS:
            file.sync(call)
        elif call.name in ("pwrite64", "ftruncate"):
            file.write(call)

    def cut(self, target: Path) -> None:
        """Write down what would be found after a power cut at this moment."""
        for name, file in self._files.items():
            # The index of the write-ahead log is memory, made anew after a restart.
            if not name.endswith("-shm"):
                (target / name).write_bytes(file.after_cut(self._chance))
