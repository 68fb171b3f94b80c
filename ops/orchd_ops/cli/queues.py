"""`orchd queue`."""

from __future__ import annotations

from typing import Any

import click

from orchd_ops.cli.invocation import invocation
from orchd_ops.cli.output import clean
from orchd_ops.cli.paging import listing, path, without_nothing
from orchd_ops.cli.reach import reached
from orchd_ops.cli.verbs import VerbGroup, examples

COLUMNS = ("name", "paused", "reason", "depth", "limit", "oldest_ready_at")


@click.group(cls=VerbGroup)
def queue() -> None:
    """List, pause and resume queues."""


@examples("orchd queue list")
@queue.command("list")
@click.pass_context
def list_queues(context: click.Context) -> None:
    """List the queues with how many tasks of each status they hold."""
    listing(invocation(context), "/v1/queues", {}, COLUMNS)


@examples("orchd queue pause nightly --reason 'quota used up'")
@queue.command()
@click.argument("name", metavar="NAME")
@click.option("--reason", default="", metavar="TEXT", help="Kept in the log.")
@click.pass_context
def pause(context: click.Context, name: str, reason: str) -> None:
    """Let nothing start from a queue until it is resumed; running tasks go on."""
    _set(context, name, "pause", reason)


@examples("orchd queue resume nightly")
@queue.command()
@click.argument("name", metavar="NAME")
@click.option("--reason", default="", metavar="TEXT", help="Kept in the log.")
@click.pass_context
def resume(context: click.Context, name: str, reason: str) -> None:
    """Let tasks of a queue start again."""
    _set(context, name, "resume", reason)


def _set(context: click.Context, name: str, verb: str, reason: str) -> None:
    call = invocation(context)
    with reached(call, write=True) as found:
        item: dict[str, Any] = found.client.request(
            "POST", path("queues", name, verb), without_nothing({"reason": reason})
        )
    state = "paused" if item["paused"] else "running"
    call.output.acted(item, f"queue {clean(item['name'])} is {state}")
