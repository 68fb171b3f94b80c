"""`orchd completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from orchd_ops.cli.output import write
from orchd_ops.cli.verbs import Verb, examples


@examples(
    'eval "$(orchd completion bash)"',
    "orchd completion fish > ~/.config/fish/completions/orchd.fish",
)
@click.command(cls=Verb)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that teaches SHELL to complete orchd's commands."""
    found = get_completion_class(shell)
    assert found is not None
    root = context.find_root().command
    write(found(root, {}, "orchd", "_ORCHD_COMPLETE").source())
