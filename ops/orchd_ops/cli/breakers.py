"""`orchd breaker`."""

from __future__ import annotations

import click

from orchd_ops.cli.invocation import invocation
from orchd_ops.cli.output import clean
from orchd_ops.cli.paging import listing, path, without_nothing
from orchd_ops.cli.reach import reached
from orchd_ops.cli.verbs import VerbGroup, examples

COLUMNS = ("name", "state", "failures", "until", "error")


@click.group(cls=VerbGroup)
def breaker() -> None:
    """List and reset circuit breakers."""


@examples("orchd breaker list")
@breaker.command("list")
@click.pass_context
def list_breakers(context: click.Context) -> None:
    """List the breakers of executors, as far as they ever opened."""
    listing(invocation(context), "/v1/breakers", {}, COLUMNS)


@examples("orchd breaker reset claude --reason 'the outage is over'")
@breaker.command()
@click.argument("name", metavar="NAME")
@click.option("--reason", default="", metavar="TEXT", help="Kept in the log.")
@click.pass_context
def reset(context: click.Context, name: str, reason: str) -> None:
    """Close a breaker at once, without waiting for its cooldown."""
    call = invocation(context)
    with reached(call, write=True) as found:
        item = found.client.request(
            "POST", path("breakers", name, "reset"), without_nothing({"reason": reason})
        )
    call.output.acted(item, f"breaker {clean(item['name'])} is {item['state']}")
