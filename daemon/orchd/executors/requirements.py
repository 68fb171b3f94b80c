"""What the settings of commands and Python code must fulfil before they are built."""

from __future__ import annotations

import re

from orchd.config.settings import ExecutorSettings, VerifierSettings
from orchd.errors import ConfigurationError
from orchd.processes.environment import is_reserved

_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def check_command(key: str, settings: ExecutorSettings | VerifierSettings) -> None:
    """Check the settings of a command.

    Raises:
        ConfigurationError: `argv` is empty, a text holds NUL, or a variable of the
            daemon itself is to be handed on.
    """
    if not settings.argv or not settings.argv[0]:
        raise ConfigurationError(f"{key}.argv", "must name a program")
    if any("\0" in argument for argument in settings.argv):
        raise ConfigurationError(f"{key}.argv", "must not contain NUL")
    for name in settings.pass_env:
        if is_reserved(name):
            rule = "must not name a variable that belongs to orchd or the service manager"
            raise ConfigurationError(f"{key}.pass_env", rule, name)


def check_python(key: str, settings: ExecutorSettings | VerifierSettings) -> None:
    """Check the settings of Python code.

    Raises:
        ConfigurationError: the target or the isolation is none.
    """
    if not settings.target or not _TARGET.fullmatch(settings.target):
        rule = "must have the form package.module:name"
        raise ConfigurationError(f"{key}.target", rule, settings.target)
    if settings.isolation not in ("process", "thread"):
        rule = "must be process or thread"
        raise ConfigurationError(f"{key}.isolation", rule, settings.isolation)
