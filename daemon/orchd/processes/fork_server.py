"""A small program beside the daemon that starts all others and lets none get away.

Started as `python -m orchd.processes.fork_server DESCRIPTOR`. For each message on that
socket it forks a *supervisor*. A supervisor runs one program after the other, and adopts
whatever comes of each, because it is its subreaper (prctl(2)): a process may change its
session, clear its environment and fork twice, and still ends up below its supervisor. So
"this process has no child" is the kernel's own word that nothing of a run is left, and
costs one system call.

The daemon holds the other end of the supervisor's channel. When that end closes, be it
because the daemon was killed, everything below the supervisor is killed at once.

This program imports nothing but the standard library and `orchd.processes.table`: each
supervisor is a fork of it and shares its memory.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from orchd.processes.table import children_of, descendants_of, read_process, send_signal

SIZE_BYTES = 8
"""An order begins with its length, big-endian; with it come stdin, stdout and stderr."""
KILL_POLL_SECONDS = 0.01
OUT_OF_MEMORY_SCORE = 500
"""Of programs, so that the kernel kills tasks rather than the daemon."""
_SCORE_FILE = Path("/proc/self/oom_score_adj")
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None)


class Wakeups:
    """Makes signals readable, so that one `poll` waits for them and for messages."""

    def __init__(self) -> None:
        self._reading_end, writing_end = os.pipe()
        os.set_blocking(self._reading_end, False)
        os.set_blocking(writing_end, False)
        signal.set_wakeup_fd(writing_end, warn_on_full_buffer=False)
        self._poll = select.poll()
        self._poll.register(self._reading_end, select.POLLIN)

    def watch(self, channel: socket.socket) -> None:
        """Wait for this socket too."""
        self._poll.register(channel, select.POLLIN)

    def forget(self, channel: socket.socket) -> None:
        """Wait for this socket no more."""
        self._poll.unregister(channel)

    def wait(self, seconds: float | None) -> bool:
        """Wait for a signal or the socket; tell whether the socket can be read."""
        milliseconds = None if seconds is None else seconds * 1_000
        ready = {descriptor for descriptor, _ in self._poll.poll(milliseconds)}
        with suppress(BlockingIOError):
            os.read(self._reading_end, 4096)
        return bool(ready - {self._reading_end})


class Supervisor:
    """Runs programs, one at a time, and sees that nothing of them is left.

    Tells the daemon, a line each: once `ready <own pid>`, and of each program `started
    <pid>` or `failed <why>`, then `exited <code>`, then `gone`. While a program runs, any
    byte asks for SIGTERM, the end of the channel for SIGKILL, to everything.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._wakeups = Wakeups()
        self._wakeups.watch(channel)
        self._process: subprocess.Popen[bytes] | None = None
        self._killing = False
        self._said = b""

    def run(self) -> None:
        """Carry out orders until the channel ends."""
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        # Before there is a program, which might freeze this process.
        self._tell(f"ready {os.getpid()}")
        self._flush()
        while not self._killing and (order := _received(self._channel)) is not None:
            parts, streams = order
            if self._start(parts, streams):
                self._watch()
            # No child, and the kernel would know: nothing of the program is left.
            self._tell("gone")
            self._flush()

    def _start(self, order: list[bytes], streams: list[int]) -> bool:
        directory, count, *rest = order
        argv, variables = rest[: int(count)], rest[int(count) :]
        try:
            if _is_called_off(self._channel):
                return False
            with _first_to_go_when_memory_is_short():
                # Kept: an object that is dropped waits for its process on its own account.
                self._process = subprocess.Popen(
                    argv,
                    env=dict(_pair(variable) for variable in variables),
                    cwd=directory,
                    stdin=streams[0],
                    stdout=streams[1],
                    stderr=streams[2],
                    start_new_session=True,
                )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._tell(f"failed {_cause(error)}")
            return False
        finally:
            for descriptor in streams:
                os.close(descriptor)
        self._tell(f"started {self._process.pid}")
        return True

    def _watch(self) -> None:
        while self._has_children():
            self._flush()
            if self._wakeups.wait(KILL_POLL_SECONDS if self._killing else None):
                self._hear()
            if self._killing:
                signal_all(signal.SIGKILL)

    def _has_children(self) -> bool:
        assert self._process is not None
        while (ended := reap()) is not None:
            pid, status = ended
            if pid == 0:
                return True
            if pid == self._process.pid:
                # Told to the object too, or it would wait for a stranger when dropped.
                self._process.returncode = os.waitstatus_to_exitcode(status)
                self._tell(f"exited {self._process.returncode}")
        return False

    def _hear(self) -> None:
        try:
            message = self._channel.recv(64)
        except OSError:
            message = b""
        if message:
            signal_all(signal.SIGTERM)
        else:
            self._killing = True
            self._wakeups.forget(self._channel)

    def _tell(self, line: str) -> None:
        self._said += line.replace("\n", " ").encode(errors="replace") + b"\n"

    def _flush(self) -> None:
        said, self._said = self._said, b""
        # A daemon that is gone is noticed by the end of the channel.
        with suppress(OSError):
            self._channel.sendall(said)


class ForkServer:
    """Forks supervisors, and ends what is left of those that were killed."""

    def __init__(self, door: socket.socket) -> None:
        self._door = door
        self._wakeups = Wakeups()
        self._channels: dict[int, socket.socket] = {}
        """Held until the supervisor is gone with all below it: the daemon sees the end of
        the channel only then."""
        self._lost: list[socket.socket] = []
        """The channels of supervisors that did not end by themselves."""

    def serve(self) -> None:
        """Serve until the daemon is gone, and all supervisors after it."""
        self._wakeups.watch(self._door)
        is_open = True
        while self._has_children() or is_open:
            if self._wakeups.wait(KILL_POLL_SECONDS if self._lost else None):
                is_open = self._accept()
                if not is_open:
                    self._wakeups.forget(self._door)

    def _accept(self) -> bool:
        message, descriptors, *_ = socket.recv_fds(
            self._door, 1, 1, socket.MSG_CMSG_CLOEXEC
        )
        for descriptor in descriptors:
            self._fork(socket.socket(fileno=descriptor))
        return bool(message)

    def _fork(self, channel: socket.socket) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            with channel, suppress(OSError):
                channel.sendall(f"failed {error}\ngone\n".encode())
            return
        if pid == 0:
            _supervise(channel)
        self._channels[pid] = channel

    def _has_children(self) -> bool:
        while (ended := reap()) is not None and ended[0] != 0:
            channel = self._channels.pop(ended[0], None)
            if channel is not None and ended[1] == 0:
                channel.close()
            elif channel is not None:
                self._lost.append(channel)
        if self._lost:
            self._end_strays()
        return ended is not None

    def _end_strays(self) -> None:
        # Nobody but a supervisor that was killed leaves us children that we did not fork.
        strays = [pid for pid in children_of(os.getpid()) if pid not in self._channels]
        for pid in strays:
            _kill_with_descendants(pid)
        if not strays:
            for channel in self._lost:
                channel.close()
            self._lost.clear()


def reap() -> tuple[int, int] | None:
    """Return the id and status of a child that has ended: 0 when none has yet, None when
    there is no child at all."""
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None


def signal_all(number: int) -> None:
    """Send a signal to everything below this process."""
    for entry in descendants_of(os.getpid()):
        send_signal(entry, number)


def _kill_with_descendants(pid: int) -> None:
    below = descendants_of(pid)
    entry = read_process(pid)
    for one in below if entry is None else [entry, *below]:
        send_signal(one, signal.SIGKILL)


def _supervise(channel: socket.socket) -> None:
    code = 1
    try:
        _close_all_but({0, 1, 2, channel.fileno()})
        Supervisor(channel).run()
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _close_all_but(kept: set[int]) -> None:
    first = 0
    for descriptor in [*sorted(kept), os.sysconf("SC_OPEN_MAX")]:
        # An empty range would be taken for one without an end.
        if first < descriptor:
            os.closerange(first, descriptor)
        first = descriptor + 1


def _received(channel: socket.socket) -> tuple[list[bytes], list[int]] | None:
    """Return an order and its streams; None when no more is to come.

    An order is a directory, the number of arguments, the arguments, and variables.
    """
    try:
        head, streams, *_ = socket.recv_fds(channel, SIZE_BYTES, 3, socket.MSG_CMSG_CLOEXEC)
        size, body = int.from_bytes(head, "big"), bytearray()
        while len(streams) == 3 and len(body) < size:
            part = channel.recv(min(size - len(body), 1 << 20))
            if not part:
                return None
            body += part
    except ConnectionError:
        return None
    return (bytes(body).split(b"\0"), streams) if body else None


def _is_called_off(channel: socket.socket) -> bool:
    # What is to be stopped before it was started, or has nobody who waits for it, is not
    # started at all. A supervisor that was frozen may find many such orders.
    try:
        channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _pair(variable: bytes) -> tuple[bytes, bytes]:
    name, _, value = variable.partition(b"=")
    return name, value


def _cause(error: Exception) -> str:
    if isinstance(error, OSError) and isinstance(error.filename, bytes):
        error = OSError(error.errno, error.strerror, os.fsdecode(error.filename))
    return str(error)


@contextmanager
def _first_to_go_when_memory_is_short() -> Iterator[None]:
    # The program inherits the score, so it has it from its first moment on.
    own = _SCORE_FILE.read_text()
    if int(own) < OUT_OF_MEMORY_SCORE:
        _SCORE_FILE.write_text(str(OUT_OF_MEMORY_SCORE))
    try:
        yield
    finally:
        with suppress(OSError):
            _SCORE_FILE.write_text(own)


def _noted(number: int, frame: FrameType | None) -> None:
    # What matters is the wakeup. A handler, unlike "ignore", is not inherited by programs.
    del number, frame


def main() -> None:
    """Run as the daemon's fork server."""
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _noted)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _libc.prctl(_PR_SET_NAME, b"orchd-fork", 0, 0, 0)
    door = socket.socket(fileno=int(sys.argv[1]))
    gc.collect()
    gc.freeze()
    ForkServer(door).serve()


if __name__ == "__main__":
    main()
