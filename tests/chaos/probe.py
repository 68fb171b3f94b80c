"""The work of a storm's tasks: it notes in the witness file what really runs.

Run as a registered command, and imported by the Python executors beside it. It imports
next to nothing, because it starts thousands of times.
"""

from __future__ import annotations

import os
import signal
import sys
import time

WITNESS_VARIABLE = "CHAOS_WITNESS"
"""Names the witness file; also marks every process of a storm, for who looks for them."""

ASTRAY_SECONDS = 300.0


class RunFailed(Exception):
    """The task's own failure, as ordered."""


class Note:
    """Writes lines about one run: one line a write, appended, so that none are mixed."""

    def __init__(self, path: str, task: str, run: int, attempt: int, token: int) -> None:
        self._path = path
        self._run = f"{task} {run} {attempt} {token}"

    def write(self, kind: str) -> None:
        """Append a line: kind, task, run, attempt, token, pid and nanoseconds of boot."""
        moment = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        line = f"{kind} {self._run} {os.getpid()} {moment}\n".encode()
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            written = os.write(file, line)
        finally:
            os.close(file)
        if written != len(line):
            raise OSError("the witness file is full")


def order_of(description: str) -> tuple[float, str]:
    """Return what a task is to do: for how long to work, and then what."""
    seconds, verb = description.split()
    return float(seconds), verb


def finish(verb: str, attempt: int) -> None:
    """Do what the order says after the work; raise `RunFailed` when it is to fail."""
    if verb == "fail" or (verb == "fail-once" and attempt == 1):
        raise RunFailed(verb)


def daemon_pid() -> int:
    """Return the process id of the daemon, which is above all that looks after this run."""
    pid = os.getppid()
    while True:
        with open(f"/proc/{pid}/cmdline", "rb") as command:
            if command.read().split(b"\0")[-2:-1] == [b"serve"]:
                return pid
        with open(f"/proc/{pid}/stat", "rb") as stat:
            pid = int(stat.read().rpartition(b")")[2].split()[1])


def go_astray() -> None:
    """Leave a process behind that nobody is the parent of, and that nothing wakes up."""
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            for descriptor in range(3):
                os.close(descriptor)
            time.sleep(ASTRAY_SECONDS)
        os._exit(0)
    os.wait()


def main() -> int:
    """Run as a command of a task."""
    environ = os.environ
    task, run = environ["ORCHD_TASK_ID"], int(environ["ORCHD_RUN"])
    attempt, token = int(environ["ORCHD_ATTEMPT"]), int(environ["ORCHD_FENCING_TOKEN"])
    note = Note(environ[WITNESS_VARIABLE], task, run, attempt, token)
    note.write("start")
    seconds, verb = order_of(sys.stdin.read())
    if verb == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if verb == "astray":
        go_astray()
    time.sleep(seconds)
    if verb == "kill-daemon":
        os.kill(daemon_pid(), signal.SIGKILL)
        # The daemon's death is what ends this run; nothing may come after it.
        signal.pause()
    note.write("end")
    try:
        finish(verb, attempt)
    except RunFailed:
        return 1
    sys.stdout.write(f"{run} {token}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
