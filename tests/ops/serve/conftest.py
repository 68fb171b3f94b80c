"""A command line with places of its own, and a service manager."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from support.command_line import CommandLine

ANSWER_SECONDS = 30.0


class Manager:
    """The socket that a service manager listens on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(ANSWER_SECONDS)

    def wait_for(self, assignment: str) -> list[str]:
        """Return the message in which `assignment` comes."""
        while True:
            lines = self._socket.recv(4096).decode().splitlines()
            if any(line.startswith(assignment) for line in lines):
                return lines

    def heard(self) -> str:
        """Return what came since the last message that was waited for."""
        found = []
        self._socket.settimeout(0)
        with suppress(BlockingIOError):
            while True:
                found.append(self._socket.recv(4096).decode())
        self._socket.settimeout(ANSWER_SECONDS)
        return "\n".join(found)

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """A service manager."""
    opened = Manager(tmp_path / "notify")
    yield opened
    opened.close()


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    """Commands on an empty SQLite state."""
    command_line = CommandLine(tmp_path, f"sqlite:///{tmp_path / 'orchd.db'}")
    yield command_line
    command_line.close()
