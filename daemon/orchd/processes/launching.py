"""The fork server of this process: started when it is first needed, once for all loops."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress

from orchd.processes.marks import fork_server_mark, inherited_mark, run_mark
from orchd.processes.table import MARK_VARIABLE
from orchd.system import Program, ended_within, start_program

_MODULE = ("-P", "-m", "orchd.processes.fork_server")
_NEEDED = frozenset(("PATH", "HOME", "LANG", "LD_LIBRARY_PATH"))
_NEEDED_PREFIXES = ("PYTHON", "LC_")
CLOSE_SECONDS = 0.5
IDLE_MAX = 64
"""Supervisors kept for the next programs; each holds about a megabyte."""


class Supervisor:
    """A supervisor that is lent to one program at a time."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.pid = 0
        """Its process id, once it has told."""

    @property
    def is_quiet(self) -> bool:
        """Whether it waits for an order; one that was killed has ended its channel."""
        try:
            self.channel.recv(1)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


class ForkServer:
    """Lends supervisors; starts the fork server anew when it was killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._program: Program | None = None
        self._door: socket.socket | None = None
        self._idle: list[Supervisor] = []

    def take(self, mark: str) -> Supervisor:
        """Return a supervisor that has nothing to do.

        Args:
            mark: of a run, to mark a fork server that has to be started.

        Raises:
            BlockingIOError: too many supervisors are being started; try again.
            OSError: there is no supervisor to be had.
        """
        with self._lock:
            while self._idle:
                supervisor = self._idle.pop()
                if supervisor.is_quiet:
                    return supervisor
                supervisor.channel.close()
            return Supervisor(self._new(mark))

    def prepare(self, state: str) -> None:
        """Start the fork server before it is needed, unless it cannot be started now.

        Args:
            state: the first part of the daemon's mark.
        """
        with self._lock, suppress(OSError):
            if self._door is None:
                self._start(run_mark(state))

    def give_back(self, supervisor: Supervisor) -> None:
        """Keep a supervisor whose program has gone by itself for the next one."""
        with self._lock:
            if len(self._idle) < IDLE_MAX:
                self._idle.append(supervisor)
                return
        supervisor.channel.close()

    def _new(self, mark: str) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            try:
                self._ask_for(theirs, mark)
            except BaseException:
                ours.close()
                raise
        return ours

    def _ask_for(self, channel: socket.socket, mark: str) -> None:
        if self._door is not None:
            try:
                socket.send_fds(self._door, [b"\0"], [channel.fileno()])
                return
            except (BrokenPipeError, ConnectionResetError):
                self._close()
        self._start(mark)
        assert self._door is not None
        socket.send_fds(self._door, [b"\0"], [channel.fileno()])

    def _start(self, mark: str) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._program = start_program(
                    (sys.executable, *_MODULE, str(theirs.fileno())),
                    env={
                        **_needed(os.environ),
                        MARK_VARIABLE: inherited_mark(fork_server_mark(mark)),
                    },
                    pass_fds=(theirs.fileno(),),
                )
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        self._door = ours

    def close(self) -> None:
        """End the fork server; idempotent. Waits for it a moment.

        What is at work still goes on until its own channel is closed, and so does the
        fork server.
        """
        with self._lock:
            self._close()

    def _close(self) -> None:
        idle, self._idle = self._idle, []
        for supervisor in idle:
            supervisor.channel.close()
        door, self._door = self._door, None
        program, self._program = self._program, None
        if door is not None:
            door.close()
        if program is not None:
            ended_within(program, CLOSE_SECONDS)


def _needed(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name in _NEEDED or name.startswith(_NEEDED_PREFIXES)
    }


fork_server = ForkServer()
"""The one of this process: children belong to a process, not to a part of it."""
