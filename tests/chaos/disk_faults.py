"""Faults of a disk that are real: a file system that is full, system calls that fail."""

from __future__ import annotations

import errno
import functools
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from chaos.fleet import wait_until

DISK_BYTES = 24 * 1024 * 1024
BALLAST_BYTES = (1024 * 1024, 4096, 1)
MOUNT = f'mount -t tmpfs -o size={DISK_BYTES} disk "$0" && exec "$@"'
ALONE = (
    ("unshare", "--mount"),
    ("unshare", "--user", "--map-root-user", "--mount"),
)
"""What gives a process a file system that only it and its children see, and the right to
look into their system calls: the first is for root, the second for everybody else."""
STRACE_SECONDS = 20


@functools.cache
def alone() -> tuple[str, ...] | None:
    """Return the command that works here, or None where a kernel allows neither."""
    probe = ("sh", "-c", MOUNT, "/tmp", "true")
    for command in ALONE:
        tried = subprocess.run([*command, *probe], capture_output=True, check=False)
        if tried.returncode == 0:
            return command
    return None


def is_small_disk(folder: Path) -> bool:
    """Tell whether a folder is a disk of its own, which may be filled."""
    return folder.is_mount()


def on_small_disk(folder: Path, command: Sequence[str]) -> list[str]:
    """Return the command that runs another one with a small disk of its own at `folder`.

    Where the kernel does not allow that, it is the other command as it is.
    """
    wrapper = alone()
    if wrapper is None:
        return [*command]
    return [*wrapper, "sh", "-c", MOUNT, str(folder), *command]


class Fault(Protocol):
    """Something that is wrong with the disk for a while."""

    def begin(self, pid: int) -> None:
        """Let it go wrong for the daemon with this pid."""
        ...

    def end(self) -> None:
        """Let it be well again."""
        ...


class FullDisk:
    """Somebody else's file takes all that is left of the disk."""

    def __init__(self, folder: Path) -> None:
        assert is_small_disk(folder), f"{folder} is on a disk that others need"
        self._ballast = folder / "ballast"

    def begin(self, pid: int) -> None:
        """Fill the disk."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in BALLAST_BYTES:
                self._fill(file.fileno(), b"\0" * size)

    def _fill(self, file: int, piece: bytes) -> None:
        try:
            while True:
                os.write(file, piece)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise

    def end(self) -> None:
        """Remove the file."""
        self._ballast.unlink()


class FailingCalls:
    """System calls of a daemon end with an error and do nothing."""

    def __init__(self, calls: str, error: str, when: str = "1+") -> None:
        """Args:
        calls: names, with commas.
        error: such as `EIO`.
        when: which calls of a thread fail, as strace counts them.
        """
        self.command = (
            *("strace", "-qq", "-f", "-o", "/dev/null", "-e", f"trace={calls}"),
            *("-e", f"inject={calls}:error={error}:when={when}"),
        )
        self._strace: subprocess.Popen[bytes] | None = None

    def begin(self, pid: int) -> None:
        """Let them fail from now on."""
        self._strace = subprocess.Popen([*self.command, "-p", str(pid)])
        wait_until(lambda: _is_traced(pid), "the daemon is traced", STRACE_SECONDS)

    def end(self) -> None:
        """Let them do again what they are there for."""
        strace, self._strace = self._strace, None
        if strace is not None:
            strace.send_signal(signal.SIGTERM)
            strace.wait(STRACE_SECONDS)


def _is_traced(pid: int) -> bool:
    threads = [*Path(f"/proc/{pid}/task").iterdir()]
    return all(_tracer(thread) != "0" for thread in threads)


def _tracer(thread: Path) -> str:
    with suppress(OSError):
        for line in (thread / "status").read_text().splitlines():
            if line.startswith("TracerPid:"):
                return line.split()[1]
    return "gone"
