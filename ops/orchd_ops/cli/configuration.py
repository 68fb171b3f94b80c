"""`orchd config`."""

from __future__ import annotations

from pathlib import Path

import click

from orchd_ops.cli.exits import Exit, Failure
from orchd_ops.cli.invocation import invocation
from orchd_ops.cli.output import as_json, say, write
from orchd_ops.cli.verbs import VerbGroup, examples


@click.group(cls=VerbGroup)
def config() -> None:
    """Show or write the configuration."""


@examples("orchd config show", "ORCHD_WORKER__CONCURRENCY=4 orchd config show -o json")
@config.command()
@click.pass_context
def show(context: click.Context) -> None:
    """Print every key, its value (secrets masked) and where the value came from."""
    from orchd.config.showing import show as show_keys

    call = invocation(context)
    lines = [line._asdict() for line in show_keys(call.loaded)]
    if call.output.form == "table":
        lines = [{**line, "value": _shown(line["value"])} for line in lines]
    file = None if call.loaded.file is None else str(call.loaded.file)
    call.output.listing(lines, ("key", "value", "origin"), file=file)


@examples("orchd config init", "orchd config init /etc/orchd/orchd.toml")
@config.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("orchd.toml"))
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
def init(file: Path, force: bool) -> None:
    """Write a commented configuration to FILE (default: orchd.toml; `-`: stdout)."""
    from orchd.config.template import TEMPLATE

    if str(file) == "-":
        write(TEMPLATE.rstrip("\n"))
        return
    try:
        with file.open("w" if force else "x") as target:
            target.write(TEMPLATE)
    except FileExistsError:
        message = f"{file} is there already; use --force to overwrite it"
        raise Failure(message, Exit.CONFLICT) from None
    say(f"wrote {file}")


def _shown(value: object) -> object:
    return as_json(value) if isinstance(value, list | dict | bool) else value
