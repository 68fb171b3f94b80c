"""`orchd checkpoint`."""

from __future__ import annotations

from typing import Any

import click

from orchd.config.instants import format_instant
from orchd.system import RealSystem
from orchd_ops.cli.invocation import invocation
from orchd_ops.cli.output import clean, say
from orchd_ops.cli.verbs import VerbGroup, examples
from orchd_ops.cli.working import shown_progress

COLUMNS = ("path", "position", "created_at", "present", "recorded", "digest")


@click.group(cls=VerbGroup)
def checkpoint() -> None:
    """Make, verify and restore checkpoints."""


@examples("orchd checkpoint create", "orchd checkpoint create /backup/orchd-monday.orchd")
@checkpoint.command()
@click.argument("path", required=False)
@click.pass_context
def create(context: click.Context, path: str | None) -> None:
    """Write a verified, consistent copy of the state (default: beside the state).

    Works while daemons run. What was accepted before it began is in it.
    """
    from orchd.maintenance.checkpoints import create as make
    from orchd_ops.cli.upkeep import checkpoint_note

    call = invocation(context)
    with shown_progress("copying") as progress:
        manifest = make(
            call.loaded.settings.database,
            path,
            system=RealSystem(),
            progress=progress,
            note=checkpoint_note(call),
        )
    if not manifest.recorded:
        say("the log does not mention it: a daemon has the state open and did not answer")
    sentence = f"{clean(str(manifest.path))} holds position {manifest.position}"
    call.output.acted(_item(manifest.as_dict()), sentence)


@examples("orchd checkpoint list")
@checkpoint.command("list")
@click.pass_context
def list_checkpoints(context: click.Context) -> None:
    """List the checkpoints that the log or the usual directory knows of."""
    from orchd.maintenance.checkpoints import list_checkpoints as known

    call = invocation(context)
    views = known(call.loaded.settings.database, system=RealSystem())
    call.output.listing([_item(view.as_dict()) for view in views], COLUMNS)


@examples("orchd checkpoint verify /backup/orchd-monday.orchd")
@checkpoint.command()
@click.argument("path")
@click.pass_context
def verify(context: click.Context, path: str) -> None:
    """Check that a checkpoint is whole and unchanged."""
    from orchd.maintenance.checkpoints import verify as examine

    call = invocation(context)
    with shown_progress("verifying") as progress:
        manifest = examine(path, progress=progress)
    sentence = f"{clean(path)} is whole, up to position {manifest.position}"
    call.output.acted(_item(manifest.as_dict()), sentence)


@examples(
    "orchd --database sqlite:////var/lib/orchd/new.db checkpoint restore monday.orchd",
    "orchd --database postgresql://orchd@db/orchd checkpoint restore monday.orchd",
)
@checkpoint.command()
@click.argument("path")
@click.pass_context
def restore(context: click.Context, path: str) -> None:
    """Restore a checkpoint into an empty database, of either kind.

    Finished tasks stay finished; those in progress are taken up by the next daemon.
    """
    from orchd.maintenance.checkpoints import restore as fill

    call = invocation(context)
    with shown_progress("restoring") as progress:
        manifest = fill(
            path, call.loaded.settings.database, system=RealSystem(), progress=progress
        )
    sentence = f"restored up to position {manifest.position}"
    call.output.acted(_item(manifest.as_dict()), sentence)


def _item(fields: dict[str, Any]) -> dict[str, Any]:
    created_at = fields.get("created_at")
    if isinstance(created_at, int):
        return {**fields, "created_at": format_instant(created_at)}
    return fields
