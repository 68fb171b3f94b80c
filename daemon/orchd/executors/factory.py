"""Builds executors from their configuration, importing each kind only when it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from orchd.config.settings import ExecutorSettings, WorkerSettings
from orchd.errors import ConfigurationError
from orchd.executors.port import ExecutorPort
from orchd.executors.requirements import check_command, check_python
from orchd.system import System

Builder: TypeAlias = Callable[[ExecutorSettings, WorkerSettings, System, str], ExecutorPort]


def build_executor(
    settings: ExecutorSettings, worker: WorkerSettings, system: System, mark: str
) -> ExecutorPort:
    """Return the executor that `settings` describe.

    Args:
        mark: `<state>/<worker>` of the daemon, for the marks of its processes.

    Raises:
        ConfigurationError: the settings cannot be used.
    """
    builder = _BUILDERS.get(settings.type)
    if builder is None:
        key = f"executors.{settings.name}.type"
        if settings.type == "http":
            raise ConfigurationError(key, "type http is not available in this release")
        rule = f"must be one of {', '.join(sorted(_BUILDERS))}"
        raise ConfigurationError(key, rule, settings.type)
    return builder(settings, worker, system, mark)


def _command(
    settings: ExecutorSettings, worker: WorkerSettings, system: System, mark: str
) -> ExecutorPort:
    from orchd.executors.command import CommandExecutor

    check_command(f"executors.{settings.name}", settings)
    return CommandExecutor(settings, worker, system, mark)


def _python(
    settings: ExecutorSettings, worker: WorkerSettings, system: System, mark: str
) -> ExecutorPort:
    from orchd.executors.python import PythonExecutor

    check_python(f"executors.{settings.name}", settings)
    return PythonExecutor(settings, worker, system, mark)


def _fake(
    settings: ExecutorSettings, worker: WorkerSettings, system: System, mark: str
) -> ExecutorPort:
    from orchd.executors.fake import FakeExecutor

    return FakeExecutor(settings, system)


def _echo(
    settings: ExecutorSettings, worker: WorkerSettings, system: System, mark: str
) -> ExecutorPort:
    from orchd.executors.echo import EchoExecutor

    return EchoExecutor(settings)


def _claude(
    settings: ExecutorSettings, worker: WorkerSettings, system: System, mark: str
) -> ExecutorPort:
    from orchd.executors.claude import build

    return build(settings, worker, system)


_BUILDERS: dict[str, Builder] = {
    "claude": _claude,
    "command": _command,
    "echo": _echo,
    "fake": _fake,
    "python": _python,
}
