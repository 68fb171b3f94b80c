"""Command executors for tests, and ways to find what their programs started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchd.config.settings import ExecutorSettings, WorkerSettings
from orchd.executors.factory import build_executor
from orchd.executors.port import ExecutorPort
from orchd.system import RealSystem, process_start


def command(
    *argv: str, grace_seconds: float = 1.0, output_bytes: int = 1 << 20, **settings: Any
) -> ExecutorPort:
    """Return an executor of a command."""
    worker = WorkerSettings(kill_grace_seconds=grace_seconds, max_output_bytes=output_bytes)
    configured = ExecutorSettings(name="c", type="command", argv=argv, **settings)
    return build_executor(configured, worker, RealSystem(), "state/worker")


def shell(script: str, **settings: Any) -> ExecutorPort:
    """Return an executor of a shell script."""
    return command("sh", "-c", script, **settings)


def is_alive(pid: int) -> bool:
    """Tell whether a process is there and has not ended."""
    return process_start(pid) is not None


def named(token: str) -> list[int]:
    """Return the processes with a text in their command line, whatever else they hide."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            line = (directory / "cmdline").read_bytes()
        except OSError:
            continue
        if token.encode() in line and is_alive(int(directory.name)):
            found.append(int(directory.name))
    return found


def script_file(directory: Path, text: str) -> Path:
    """Write a Python program whose name tells its processes from all others."""
    file = directory / f"{directory.name}-program.py"
    file.write_text(text)
    return file
