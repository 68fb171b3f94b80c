"""A child process that speaks JSON, one object a line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from support.processes import die_with_parent

ANSWER_SECONDS = 180.0
STOP_SECONDS = 15.0
TAIL_LINES = 6
MEBIBYTE = 1 << 20

Record = dict[str, Any]


class ProcessFailed(Exception):
    """A child process ended, or said nothing in time; the text holds its last words."""


class LineProcess:
    """Starts a program, takes its records, and ends it with all that it started.

    It is killed with the thread that started it, so that no run leaves a worker behind.

    Args:
        errors: the file that gets what it says besides its records.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        errors: Path,
    ) -> None:
        self._errors = errors
        with errors.open("ab") as stream:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env=dict(environment),
                cwd=folder,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self._news = threading.Condition()
        self._records: list[Record] = []
        self._said: list[str] = []
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                if line.startswith(b"{"):
                    self._records.append(json.loads(line))
                else:
                    self._said.append(line.decode(errors="replace").rstrip())
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    # --- talking ----------------------------------------------------------------------

    def ask(self, do: str, **asked: Any) -> Record:
        """Ask for something and return the answer.

        Raises:
            ProcessFailed: it ended instead.
        """
        with self._news:
            before = len(self._records)
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"do": do, **asked}).encode() + b"\n")
            self.process.stdin.flush()
        if not self.wait_for_records(before + 1, ANSWER_SECONDS):
            raise ProcessFailed(f"no answer to {do!r}: {self.last_words()}")
        return self.records()[before]

    def wait_for_records(self, count: int, seconds: float) -> bool:
        """Wait until there are that many records; return whether there are."""
        with self._news:
            self._news.wait_for(lambda: len(self._records) >= count or self._ended, seconds)
            return len(self._records) >= count

    def records(self) -> list[Record]:
        """Return what it has told so far."""
        with self._news:
            return list(self._records)

    def wait_for_line(self, mark: str, seconds: float) -> str:
        """Return the first line that is no record and holds `mark`.

        Raises:
            ProcessFailed: it ended, or the time is over.
        """
        with self._news:
            self._news.wait_for(lambda: self._ended or self._found(mark), seconds)
            found = self._found(mark)
        if found is None:
            raise ProcessFailed(f"it never said {mark!r}: {self.last_words()}")
        return found

    def _found(self, mark: str) -> str | None:
        return next((line for line in self._said if mark in line), None)

    def last_words(self) -> str:
        """Return the end of what it said besides its records."""
        lines = self._errors.read_text(errors="replace").splitlines()
        errors = [line for line in lines if "Error" in line][:1]
        return " | ".join([*self._said[-3:], *errors, *lines[-TAIL_LINES:]]) or "nothing"

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    # --- what it costs ----------------------------------------------------------------

    def tree(self) -> list[psutil.Process]:
        """Return the process and all that it started."""
        try:
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def rss_megabytes(self) -> float:
        """Return the memory of the whole tree."""
        total = 0
        for process in self.tree():
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total / MEBIBYTE

    def cpu_seconds(self) -> float:
        """Return the processor time that the whole tree has used."""
        total = 0.0
        for process in self.tree():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    # --- ending -----------------------------------------------------------------------

    def terminate(self) -> None:
        """Ask it to end, and wait until it has; kill it when it does not."""
        if self.running:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End it and all that it started, at once; idempotent."""
        for process in reversed(self.tree()):
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(STOP_SECONDS)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


def run_once(
    command: Sequence[str], *, environment: Mapping[str, str], folder: Path, errors: Path
) -> Record:
    """Run a program to its end and return its only record.

    Raises:
        ProcessFailed: it told none.
    """
    process = LineProcess(command, environment=environment, folder=folder, errors=errors)
    try:
        if not process.wait_for_records(1, ANSWER_SECONDS):
            raise ProcessFailed(process.last_words())
        return process.records()[0]
    finally:
        process.terminate()


def until(condition: Any, seconds: float, step_seconds: float = 0.02) -> bool:
    """Wait until `condition()` holds; return whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(step_seconds)
    return True
