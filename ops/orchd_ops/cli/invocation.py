"""What every command starts with: its global options, settings and output."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import click

from orchd.config.loading import Loaded, load
from orchd_ops.cli.output import Output


class Invocation:
    """One call of the program.

    Args:
        options: the global options by name.
        flags: a verb's own options that are configuration: dotted key -> (option, text).
    """

    def __init__(
        self,
        options: Mapping[str, object],
        flags: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        self.config = _text(options, "config")
        self.url = _text(options, "url") or os.environ.get("ORCHD_URL") or None
        self.output = Output(
            _text(options, "output") or "table", color=not options.get("no_color")
        )
        self._flags = dict(flags or {})
        database = _text(options, "database")
        if database is not None:
            self._flags["database"] = ("--database", database)
            # Whoever names a database means it, not the address in a variable.
            self.url = _text(options, "url")

    @cached_property
    def loaded(self) -> Loaded:
        """The configuration; raises `ConfigurationError`."""
        return load(
            environ=os.environ,
            directory=Path.cwd(),
            config=self.config,
            options=self._flags,
        )


def invocation(
    context: click.Context, flags: Mapping[str, tuple[str, str]] | None = None
) -> Invocation:
    """Return the call that a command runs in."""
    return Invocation(context.find_root().ensure_object(dict), flags)


def _text(options: Mapping[str, object], name: str) -> str | None:
    value = options.get(name)
    return None if value is None else str(value)
