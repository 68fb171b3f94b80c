"""Server processes for the tests: started, waited for until ready, and stopped."""

import contextlib
import ctypes
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from typing import IO, Any

START_TIMEOUT_SECONDS = 60
STOP_TIMEOUT_SECONDS = 15
PR_SET_PDEATHSIG = 1


class ServerProcess:
    """A child process that says in its output when it is ready.

    It leads its own process group, and is killed with the thread that started it,
    so that not even a killed test run leaves a server behind.
    """

    def __init__(self, command: Sequence[str], *, ready_mark: str, **options: Any) -> None:
        """Start `command`; `options` are those of `subprocess.Popen`.

        `ready_mark` is a part of the line, on stdout or stderr, that says the
        server is ready.
        """
        self._ready_mark = ready_mark
        self._ready = threading.Event()
        self._lines: list[str] = []
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=die_with_parent,
            **options,
        )
        assert self.process.stdout is not None
        self._follower = threading.Thread(
            target=self._follow, args=(self.process.stdout,), daemon=True
        )
        self._follower.start()

    @property
    def log(self) -> str:
        """What the server has said so far."""
        return "".join(self._lines)

    def wait_until_ready(self, timeout_seconds: float = START_TIMEOUT_SECONDS) -> bool:
        """Return whether the server became ready; False too when it has ended."""
        self._ready.wait(timeout_seconds)
        return any(self._ready_mark in line for line in self._lines)

    def stop(
        self, signals: Sequence[int] = (signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL)
    ) -> None:
        """Stop the server with the first of `signals` that ends it in time."""
        for number in signals:
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT_SECONDS)
                break
        self._follower.join(STOP_TIMEOUT_SECONDS)

    def _follow(self, stream: IO[str]) -> None:
        # To the end of the output, so that the server never waits for its reader.
        with stream:
            for line in stream:
                self._lines.append(line)
                if self._ready_mark in line:
                    self._ready.set()
        self._ready.set()


def die_with_parent() -> None:
    """Have this process ended with the thread that started it; called in a new child."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
