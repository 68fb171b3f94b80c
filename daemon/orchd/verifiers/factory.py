"""Builds verifiers from their configuration, importing each kind only when it is used."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

from orchd.config.settings import VerifierSettings, WorkerSettings
from orchd.errors import ConfigurationError
from orchd.executors.requirements import check_command, check_python
from orchd.system import System
from orchd.verifiers.port import VerifierPort

Builder: TypeAlias = Callable[[VerifierSettings, WorkerSettings, System, str], VerifierPort]


def build_verifier(
    settings: VerifierSettings, worker: WorkerSettings, system: System, mark: str
) -> VerifierPort:
    """Return the verifier that `settings` describe.

    Args:
        mark: `<state>/<worker>` of the daemon, for the marks of its processes.

    Raises:
        ConfigurationError: the settings cannot be used.
    """
    builder = _BUILDERS.get(settings.type)
    if builder is None:
        key = f"verifiers.{settings.name}.type"
        if settings.type == "http":
            raise ConfigurationError(key, "type http is not available in this release")
        rule = f"must be one of {', '.join(sorted(_BUILDERS))}"
        raise ConfigurationError(key, rule, settings.type)
    return builder(settings, worker, system, mark)


def _always_pass(
    settings: VerifierSettings, worker: WorkerSettings, system: System, mark: str
) -> VerifierPort:
    from orchd.verifiers.always_pass import AlwaysPassVerifier

    return AlwaysPassVerifier(settings)


def _command(
    settings: VerifierSettings, worker: WorkerSettings, system: System, mark: str
) -> VerifierPort:
    from orchd.verifiers.command import CommandVerifier

    check_command(f"verifiers.{settings.name}", settings)
    return CommandVerifier(settings, worker, system, mark)


def _python(
    settings: VerifierSettings, worker: WorkerSettings, system: System, mark: str
) -> VerifierPort:
    from orchd.verifiers.python import PythonVerifier

    check_python(f"verifiers.{settings.name}", settings)
    return PythonVerifier(settings, worker, system, mark)


def _regex(
    settings: VerifierSettings, worker: WorkerSettings, system: System, mark: str
) -> VerifierPort:
    from orchd.verifiers.regex import RegexVerifier

    key = f"verifiers.{settings.name}.pattern"
    if settings.pattern is None:
        raise ConfigurationError(key, "must be set")
    try:
        re.compile(settings.pattern)
    except (re.error, RecursionError, OverflowError) as error:
        rule = f"must be a regular expression: {error}"
        raise ConfigurationError(key, rule, settings.pattern) from error
    return RegexVerifier(settings, worker, system, mark)


def _schema(
    settings: VerifierSettings, worker: WorkerSettings, system: System, mark: str
) -> VerifierPort:
    from orchd.verifiers.schema import SchemaVerifier

    return SchemaVerifier(settings, worker, system, mark)


def _claude(
    settings: VerifierSettings, worker: WorkerSettings, system: System, mark: str
) -> VerifierPort:
    from orchd.verifiers.claude import build

    return build(settings, worker, system)


_BUILDERS: dict[str, Builder] = {
    "always-pass": _always_pass,
    "claude": _claude,
    "command": _command,
    "python": _python,
    "regex": _regex,
    "schema": _schema,
}
