"""The layers of the configuration, laid over each other: file, environment, options."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from orchd.errors import ConfigurationError

PREFIX = "ORCHD_"

NOT_CONFIGURATION = frozenset(
    {
        # Where to look, and whom to talk to: read by those who look and talk.
        "ORCHD_CONFIG",
        "ORCHD_URL",
        "ORCHD_TOKEN",
        # What orchd tells the commands that it runs, which may run orchd again.
        "ORCHD_TASK_ID",
        "ORCHD_RUN",
        "ORCHD_ATTEMPT",
        "ORCHD_QUEUE",
        "ORCHD_FENCING_TOKEN",
        "ORCHD_IDEMPOTENCY_KEY",
        "ORCHD_TASK_DESCRIPTION_FILE",
        "ORCHD_RUN_MARK",
    }
)
NOT_CONFIGURATION_PREFIXES = ("ORCHD_PAYLOAD", "ORCHD_FEEDBACK", "ORCHD_TEST_")

FILE_BYTES_MAX = 8 * 1024 * 1024


class Given(NamedTuple):
    """A value that somebody gave, and where."""

    value: Any
    origin: str
    is_text: bool
    """Whether it is text that its kind has yet to make typed."""


Tree: TypeAlias = dict[str, Any]
"""Tables as dictionaries; leaves are `Given`, or plain values of a table of values."""


def read_file(path: Path) -> Tree:
    """Return the tables of a TOML file.

    Raises:
        ConfigurationError: it cannot be read, or is no TOML.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigurationError(str(path), f"cannot be read: {reason}") from error
    if len(content) > FILE_BYTES_MAX:
        raise ConfigurationError(str(path), f"must be smaller than {FILE_BYTES_MAX} bytes")
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(str(path), f"must be TOML: {error}") from error


def is_configuration(variable: str) -> bool:
    """Tell whether a variable is meant as configuration."""
    return (
        variable.startswith(PREFIX)
        and variable not in NOT_CONFIGURATION
        and not variable.startswith(NOT_CONFIGURATION_PREFIXES)
    )


def lay_environment(tree: Tree, environ: Mapping[str, str]) -> None:
    """Lay the variables `ORCHD_SECTION__KEY` over `tree`, in place."""
    for variable in sorted(environ):
        if is_configuration(variable):
            path = variable.removeprefix(PREFIX).lower().split("__")
            given = Given(environ[variable], f"${variable}", True)
            _lay(tree, path, given, variable)


def lay_options(tree: Tree, options: Mapping[str, tuple[str, str]]) -> None:
    """Lay options of the command line over `tree`: dotted key -> (option, text)."""
    for key, (option, text) in options.items():
        _lay(tree, key.split("."), Given(text, option, True), option)


def _lay(tree: Tree, path: list[str], given: Given, source: str) -> None:
    if not all(path):
        raise ConfigurationError(source, "does not name a key")
    table = tree
    for part in path[:-1]:
        name = _existing(table, part)
        below = table.setdefault(name, {})
        if not isinstance(below, dict):
            raise ConfigurationError(source, f"cannot lie below {name}, which is no table")
        table = below
    table[_existing(table, path[-1])] = given


def _existing(table: Tree, part: str) -> str:
    """Return the key that a variable's part means; variables know no dash and no case."""
    if part in table:
        return part
    for name in table:
        if name.lower().replace("-", "_").replace(".", "_") == part:
            return name
    return part
