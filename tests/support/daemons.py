"""`orchd` as its users run it: real processes on a state of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.processes import ServerProcess

ORCHD = str(Path(sys.executable).with_name("orchd"))
TOKEN = "the-token-of-the-tests"
READY_MARK = "listening on http://"


class Installation:
    """A configuration file, a state, and the command line on them.

    Everything lives below `home`, with short paths for the sockets. The API's token is
    `TOKEN`.
    """

    def __init__(self, home: Path, database: str, toml: str = "") -> None:
        self.home = home
        self.database = database
        self.config = home / "orchd.toml"
        token = home / "token"
        token.touch(mode=0o600)
        token.write_text(f"{TOKEN}\n")
        server = f'[server]\nlisten = "127.0.0.1:0"\ntoken_file = "{token}"\n'
        self.config.write_text(f"database = {json.dumps(database)}\n{server}{toml}")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("ORCHD_")}
        self.environment = inherited | {
            "HOME": str(home),
            "RUNTIME_DIRECTORY": str(home),
            "XDG_STATE_HOME": str(home / "state"),
        }

    def command(self, *arguments: str) -> list[str]:
        return [ORCHD, "--config", str(self.config), *arguments]

    def run(
        self, *arguments: str, timeout_seconds: float = 120, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and return what it said."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
            **options,
        )

    def succeed(self, *arguments: str, **options: Any) -> str:
        """Run a command that has to end well; return its standard output."""
        done = self.run(*arguments, **options)
        assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def items(self, *arguments: str) -> list[dict[str, Any]]:
        """Run a command that lists, and return what it lists."""
        items: list[dict[str, Any]] = json.loads(self.succeed(*arguments, "-o", "json"))[
            "items"
        ]
        return items

    def serve(
        self, *arguments: str, wrapper: Sequence[str] = (), **options: Any
    ) -> ServerProcess:
        """Start a daemon; call `wait_until_ready` on what this returns.

        Args:
            wrapper: the command that starts the daemon's own, such as `strace`.
            options: those of `subprocess.Popen`.
        """
        return ServerProcess(
            [*wrapper, *self.command("serve", *arguments)],
            ready_mark=READY_MARK,
            **({"env": self.environment, "cwd": self.home} | options),
        )

    def events(self) -> list[dict[str, Any]]:
        """Return the whole log."""
        lines = self.succeed("log", "export", timeout_seconds=300).splitlines()
        return [json.loads(line) for line in lines]


def kill(process: subprocess.Popen[Any]) -> None:
    """Kill a process as a power cut would: it gets to say nothing."""
    process.send_signal(signal.SIGKILL)
    process.wait()
