"""The real command line as real processes, each test with places of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PROGRAM = (sys.executable, "-m", "orchd_ops.cli")
TIMEOUT_SECONDS = 60
HANDED_ON = ("PYTHONPATH",)
"""What leads to the sources when they are not those that were installed."""
LISTENING = re.compile(r"listening on (http://\S+)")


class Done:
    """A command that has ended."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code = code
        self.stdout = stdout
        self.stderr = stderr

    @property
    def json(self) -> Any:
        """What the command wrote, parsed."""
        return json.loads(self.stdout)

    def __repr__(self) -> str:
        return f"Done({self.code}, stdout={self.stdout!r}, stderr={self.stderr!r})"


class CommandLine:
    """Runs `orchd` with its home, state and sockets below one directory."""

    def __init__(self, directory: Path, database: str | None = None) -> None:
        self.directory = directory
        self.runtime = directory / "run"
        self.runtime.mkdir(mode=0o700)
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "LC_ALL": "C.UTF-8",
            **{n: os.environ[n] for n in HANDED_ON if n in os.environ},
        }
        if database is not None:
            self.environ["ORCHD_DATABASE"] = database
        self.prefix: tuple[str, ...] = ()
        """What `start` puts before the program, such as a tracer and its options."""
        self._daemons: list[DaemonProcess] = []

    def configure(self, text: str) -> Path:
        """Write `orchd.toml` into the directory that commands run in."""
        file = self.directory / "orchd.toml"
        file.write_text(text)
        return file

    def run(
        self,
        *arguments: str,
        stdin: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Done:
        """Run a command to its end."""
        done = subprocess.run(
            (*PROGRAM, *arguments),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            cwd=self.directory,
            env={**self.environ, **(environ or {})},
            timeout=TIMEOUT_SECONDS,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def ok(self, *arguments: str, stdin: str | None = None) -> Done:
        """Run a command that has to succeed."""
        done = self.run(*arguments, stdin=stdin)
        assert done.code == 0, done
        return done

    def serve(
        self, *arguments: str, environ: Mapping[str, str] | None = None
    ) -> "DaemonProcess":
        """Start a daemon on a free port and wait until it listens."""
        daemon = self.start("serve", "--listen", "127.0.0.1:0", *arguments, environ=environ)
        daemon.wait_until_listening()
        return daemon

    def start(
        self, *arguments: str, environ: Mapping[str, str] | None = None
    ) -> "DaemonProcess":
        """Start a command and let it run."""
        process = DaemonProcess(
            (*self.prefix, *PROGRAM, *arguments),
            self.directory,
            {**self.environ, **(environ or {})},
        )
        self._daemons.append(process)
        return process

    def close(self) -> None:
        """End whatever was started and is still running."""
        for daemon in self._daemons:
            daemon.kill()


class DaemonProcess:
    """A running `orchd`, and what it has said so far."""

    def __init__(
        self, command: Sequence[str], directory: Path, environ: Mapping[str, str]
    ) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=directory,
            env=environ,
            start_new_session=True,
        )
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._news = threading.Condition()
        self._open = 2
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in (
                (self.process.stdout, self.stdout),
                (self.process.stderr, self.stderr),
            )
        ]
        for reader in self._readers:
            reader.start()
        self.url = ""

    def _read(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            with self._news:
                lines.append(line)
                self._news.notify_all()
        stream.close()
        with self._news:
            self._open -= 1
            self._news.notify_all()

    def wait_for(self, pattern: str, where: list[str] | None = None) -> re.Match[str]:
        """Return the match of the first line that has `pattern` in it."""
        lines = self.stderr if where is None else where

        def found() -> re.Match[str] | None:
            return next((m for m in (re.search(pattern, one) for one in lines) if m), None)

        with self._news:
            self._news.wait_for(lambda: found() or not self._open, TIMEOUT_SECONDS)
        match = found()
        assert match is not None, (pattern, self.stdout, self.stderr)
        return match

    def wait_until_listening(self) -> None:
        """Wait until the daemon has said where it listens."""
        self.url = self.wait_for(LISTENING.pattern, self.stdout)[1]

    def signal(self, number: int) -> None:
        """Send a signal to the daemon alone."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Return the exit code when it has ended, everything it said read."""
        code = self.process.wait(TIMEOUT_SECONDS)
        for reader in self._readers:
            reader.join(TIMEOUT_SECONDS)
        return code

    def stop(self) -> int:
        """Stop it in good order and return its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
