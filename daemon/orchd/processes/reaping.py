"""Adopts the orphans of runs and reaps them when they end."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

from orchd.processes.table import ProcessEntry
from orchd.system import own_pid

_PR_SET_CHILD_SUBREAPER = 36
UNCLEAR_SECONDS = 60.0
"""After this long an ended child that leads a session of its own and that nobody waited
for is taken for an orphan. Before, it may belong to a `Popen` of code in this process."""


class Reaper:
    """Knows which children of this process it started itself, and reaps the others.

    Waiting for any child would steal exit codes from whoever started it, so only children
    that can be nothing but orphans of a run are reaped.
    """

    def __init__(self) -> None:
        self.adopts = False
        """Whether orphans become children of this process."""
        self._own: set[int] = set()
        self._condemned: set[tuple[int, int]] = set()
        self._unclear: dict[tuple[int, int], float] = {}

    def adopt_orphans(self) -> bool:
        """Make orphaned descendants children of this process, as init would.

        Returns:
            Whether the kernel agreed; without it, init reaps them instead.
        """
        try:
            answer = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        except (OSError, AttributeError):
            return False
        self.adopts = answer == 0
        return self.adopts

    def own(self, pid: int) -> None:
        """Leave the child `pid` to whoever started it."""
        self._own.add(pid)

    def disown(self, pid: int) -> None:
        """The child `pid` was waited for."""
        self._own.discard(pid)

    def condemn(self, entry: ProcessEntry) -> None:
        """Reap a process that was killed as soon as it is ours and has ended."""
        if self.adopts and entry.pid not in self._own:
            self._condemned.add((entry.pid, entry.start))

    def reap(self, table: dict[int, ProcessEntry], now_seconds: float) -> None:
        """Reap the ended orphans in a list of processes read at `now_seconds`."""
        if not self.adopts:
            return
        me = own_pid()
        ended = [
            entry
            for entry in table.values()
            if entry.ended and entry.parent == me and entry.pid not in self._own
        ]
        present = {(entry.pid, entry.start) for entry in ended}
        alive = {(entry.pid, entry.start) for entry in table.values()}
        self._unclear = {k: v for k, v in self._unclear.items() if k in present}
        self._condemned &= alive
        own_session = os.getsid(0)
        for entry in ended:
            if self._is_orphan(entry, own_session, now_seconds):
                with suppress(ChildProcessError):
                    os.waitpid(entry.pid, os.WNOHANG)

    def _is_orphan(self, entry: ProcessEntry, own_session: int, now_seconds: float) -> bool:
        key = (entry.pid, entry.start)
        if key in self._condemned:
            return True
        if entry.session == own_session:
            return False
        if entry.session != entry.pid:
            return True
        since = self._unclear.setdefault(key, now_seconds)
        return now_seconds - since >= UNCLEAR_SECONDS


reaper = Reaper()
"""The one of this process: children belong to a process, not to a part of it."""
