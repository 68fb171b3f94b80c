"""Commands that take the global options before or after their own, and load lazily."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import click

FORMATS = ("table", "json", "jsonl")


def _global_options() -> list[click.Option]:
    def remember(context: click.Context, option: click.Parameter, value: Any) -> None:
        # The last one given wins, so that a verb's option beats the program's.
        if value not in (None, False):
            context.find_root().ensure_object(dict)[option.name] = value

    def make(*names: str, **attributes: Any) -> click.Option:
        return click.Option(names, expose_value=False, callback=remember, **attributes)

    return [
        make("--config", metavar="FILE", help="Read this configuration file."),
        make("--database", metavar="URL", help="Use the state in this database."),
        make("--url", metavar="URL", help="Talk to the daemon at this address."),
        make(
            "-o",
            "--output",
            type=click.Choice(FORMATS),
            help="Write tables (default), JSON or JSON lines.",
        ),
        make("--no-color", is_flag=True, help="Write without colours."),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="Print the version and exit.",
        ),
    ]


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"orchd {version('orchd')}")
        context.exit()


class _GlobalOptions(click.Command):
    """A command that also takes the global options, listed apart in its help."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self._global = _global_options()
        self.params = [*self.params, *self._global]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = [
            parameter
            for parameter in self.get_params(ctx)
            if not self._is_global(parameter)
        ]
        self._write_options(ctx, formatter, "Options", own)
        self._write_options(ctx, formatter, "Global options", self._global)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)

    def _is_global(self, parameter: click.Parameter) -> bool:
        return any(parameter is option for option in self._global)

    @staticmethod
    def _write_options(
        ctx: click.Context,
        formatter: click.HelpFormatter,
        title: str,
        parameters: list[Any],
    ) -> None:
        records = [parameter.get_help_record(ctx) for parameter in parameters]
        if lines := [record for record in records if record is not None]:
            with formatter.section(title):
                formatter.write_dl(lines)


class Verb(_GlobalOptions):
    """A command."""


class VerbGroup(_GlobalOptions, click.Group):
    """A noun with its verbs."""

    command_class = Verb


class Lazy(NamedTuple):
    """Where a verb lives, and its line in the help."""

    module: str
    name: str
    summary: str


class LazyGroup(VerbGroup):
    """A group that imports a verb's module only when the verb is used."""

    def __init__(
        self, *arguments: Any, lazy: Mapping[str, Lazy], **attributes: Any
    ) -> None:
        super().__init__(*arguments, **attributes)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = self._lazy.get(cmd_name)
        if place is None:
            return None
        module = importlib.import_module(place.module)
        command: click.Command = getattr(module, place.name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, place.summary) for name, place in self._lazy.items()]
            )

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self._lazy and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, self._lazy, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            ctx.fail(f"no command is called {name!r}{hint}")
        return super().resolve_command(ctx, args)


def examples(*lines: str) -> Callable[[click.Command], click.Command]:
    """Show these lines as examples at the end of a command's help."""

    def add(command: click.Command) -> click.Command:
        # The mark keeps click from joining the lines to a paragraph.
        command.epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
        return command

    return add
