"""Daemons of one state, and what is done to them: started, frozen, terminated, killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from chaos import probe
from chaos.state import Held, State
from chaos.witness import Witness
from orchd.client import Client, Response, SocketTransport
from support.daemons import TOKEN, Installation
from support.processes import ServerProcess

TESTS = Path(__file__).parents[1]
LISTENING = re.compile(r"listening on (http://\S+)")
ANSWER_SECONDS = 10.0
POLL_SECONDS = 0.005
WAIT_SECONDS_MAX = 30.0


class Daemon:
    """One daemon process, from its start to its end."""

    def __init__(self, process: ServerProcess, database: str) -> None:
        self._server = process
        self._state = State(database)
        self.started_at = time.monotonic()
        self.died_at: int | None = None
        """Nanoseconds of boot at which it was killed, to compare with the witness."""
        self._worker: str | None = None

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._server.process.pid

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._server.log

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self._server.process.poll() is None

    @property
    def is_ready(self) -> bool:
        """Whether it listens."""
        return LISTENING.search(self.log) is not None

    def wait_until_ready(self) -> None:
        """Wait until it listens; fail when it ends instead."""
        assert self._server.wait_until_ready(), self.log

    @property
    def url(self) -> str:
        """Where it listens."""
        found = LISTENING.search(self.log)
        assert found is not None, self.log
        return found[1]

    def client(self) -> Client:
        """Return a client of this daemon; not for several threads."""
        return Client(self.url, TOKEN)

    def ask(self, path: str) -> Response:
        """Return the answer to a GET, whatever its status."""
        with closing(SocketTransport(self.url, TOKEN)) as transport:
            return transport.request("GET", path, timeout_seconds=ANSWER_SECONDS)

    def answers_ready(self) -> bool:
        """Whether it says that it is ready."""
        return self.ask("/readyz").status == 200

    @property
    def worker(self) -> str:
        """The id of its lease: the one it has, or of a dead daemon the last one seen."""
        self._worker = self._state.worker_of(self.pid) or self._worker
        assert self._worker is not None, self.log
        return self._worker

    def runs_held(self) -> list[Held]:
        """Return the runs that its lease has in progress."""
        return self._state.held_by(self.worker)

    def send(self, number: int) -> None:
        """Send a signal to the daemon alone."""
        self._server.process.send_signal(number)

    def freeze(self) -> None:
        """Stop it where it is; return when the kernel has."""
        self.send(signal.SIGSTOP)
        wait_until(lambda: state_of(self.pid) in "Tt", "it stopped")

    def thaw(self) -> None:
        """Let it go on."""
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a power cut would; it gets to say nothing."""
        self.died_at = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self.send(signal.SIGKILL)
        self._server.process.wait()

    def wait(self, timeout_seconds: float) -> int:
        """Return its exit code when it has ended; fail after the timeout."""
        try:
            return self._server.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it did not end in time: {self.log}") from None

    def wait_and_time(self, timeout_seconds: float) -> tuple[int, float]:
        """Return its exit code when it has ended, and after how many seconds of its own.

        See `OwnTime`.
        """
        own = OwnTime(self.pid)
        wait_until(lambda: own.sample() and not self.is_alive, "it ended", timeout_seconds)
        return self.wait(0.1), own.seconds

    def stop(self, timeout_seconds: float = 60) -> int:
        """Stop it in good order and return its exit code."""
        self.send(signal.SIGTERM)
        return self.wait(timeout_seconds)


class OwnTime:
    """The time that passes for a process: what it waits for a processor is not counted.

    On an idle machine a process that can run does run, and this is the time of the clock.
    On a busy one the difference is not the fault of the process.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._at = self._began = time.monotonic()
        self._seen = self._waits()
        self._waited = 0.0

    def sample(self) -> bool:
        """Look at the threads."""
        waits, self._at = self._waits(), time.monotonic()
        more = sum(each - self._seen.get(name, 0) for name, each in waits.items())
        self._seen |= waits
        # Threads may wait beside each other; no moment counts twice.
        self._waited = min(self._waited + more, self._at - self._began)
        return True

    @property
    def elapsed(self) -> float:
        """The seconds of the clock up to the last look."""
        return self._at - self._began

    @property
    def seconds(self) -> float:
        """The seconds of its own up to the last look."""
        return self.elapsed - self._waited

    def _waits(self) -> dict[str, float]:
        # The second figure of `schedstat`: nanoseconds in the queue of a processor.
        found = {}
        with suppress(OSError):
            for thread in Path(f"/proc/{self._pid}/task").iterdir():
                with suppress(OSError, IndexError):
                    waited = (thread / "schedstat").read_text().split()[1]
                    found[thread.name] = int(waited) / 1e9
        return found


class Fleet:
    """Daemons that share a configuration and a state; killed when the block is left.

    Args:
        home: a directory with a short path, for everything but the database.
        database: URL of the state.
        toml: the configuration besides the executors of a storm: `probe` (a command),
            `looped` (async Python) and `forked` (Python in a child process).
        executors: what is configured for each of these executors besides.
    """

    def __init__(
        self, home: Path, database: str, toml: str = "", *, executors: str = ""
    ) -> None:
        self.home = home
        self.database = database
        self.state = State(database)
        self.witness = Witness(home / "witness")
        self.installation = Installation(home, database, toml + self._executors(executors))
        self.installation.environment["PYTHONPATH"] = str(TESTS)
        # Handed on to the children that run Python code.
        self.installation.environment[probe.WITNESS_VARIABLE] = str(self.witness.path)
        self.daemons: list[Daemon] = []

    def _executors(self, more: str) -> str:
        path = json.dumps(str(self.witness.path))
        command = json.dumps([sys.executable, "-I", "-S", probe.__file__])
        python = f"options = {{ witness = {path} }}"
        env = f"env = {{ {probe.WITNESS_VARIABLE} = {path} }}"
        return "\n".join(
            f'[executors.{name}]\ntype = "{kind}"\n{more}\n{rest}'
            for name, kind, rest in (
                ("probe", "command", f"argv = {command}\n{env}"),
                ("looped", "python", f'target = "chaos.executors:Looped"\n{python}'),
                ("forked", "python", f'target = "chaos.executors:Forked"\n{python}'),
            )
        )

    @property
    def alive(self) -> list[Daemon]:
        """The daemons whose processes have not ended."""
        return [daemon for daemon in self.daemons if daemon.is_alive]

    def launch(
        self,
        *arguments: str,
        wrapper: Sequence[str] = (),
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> Daemon:
        """Start a daemon and return at once.

        Args:
            wrapper: the command that starts the daemon's own.
            variables: its environment besides; `ORCHD_…` configure this daemon alone.
        """
        environment = {**self.installation.environment, **variables}
        process = self.installation.serve(*arguments, wrapper=wrapper, env=environment)
        daemon = Daemon(process, self.database)
        self.daemons.append(daemon)
        return daemon

    def start(self, count: int = 1, *arguments: str) -> list[Daemon]:
        """Start daemons and wait until they are ready."""
        started = [self.launch(*arguments) for _ in range(count)]
        for daemon in started:
            daemon.wait_until_ready()
        return started

    def stop(self) -> None:
        """Stop every daemon in good order, all at the same time."""
        alive = self.alive
        for daemon in alive:
            daemon.send(signal.SIGTERM)
        for daemon in alive:
            assert daemon.wait(60) == 0, daemon.log

    def close(self) -> None:
        """Kill what is left, of the daemons and of their tasks."""
        for daemon in self.alive:
            daemon.kill()
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)

    def processes(self) -> list[int]:
        """Return the processes of runs that are alive, by the variable that marks them."""
        mark = f"{probe.WITNESS_VARIABLE}={self.witness.path}".encode()
        daemons = {daemon.pid for daemon in self.alive}
        return [
            pid for pid in all_pids() if pid not in daemons and mark in environment_of(pid)
        ]


@contextmanager
def fleet(home: Path, database: str, toml: str = "", **options: Any) -> Iterator[Fleet]:
    """Give a fleet whose processes are gone afterwards."""
    made = Fleet(home, database, toml, **options)
    try:
        yield made
    finally:
        made.close()


def wait_until(condition: Any, what: str, timeout_seconds: float = WAIT_SECONDS_MAX) -> Any:
    """Wait for something in another process, and return what `condition` did."""
    deadline = time.monotonic() + timeout_seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_seconds:g} s until {what}"
        time.sleep(POLL_SECONDS)
    return found


def all_pids() -> list[int]:
    """Return the ids of all processes."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def environment_of(pid: int) -> list[bytes]:
    """Return the variables that a process started with; none when it is gone."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def state_of(pid: int) -> str:
    """Return the letter for a process's state, as in ps(1); a dot when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "."
    return text.rpartition(")")[2].split()[0]
