"""`orchd dlq`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from orchd.client import NotFound
from orchd.operations.dead_letters import parse_rate
from orchd.operations.errors import Invalid
from orchd_ops.cli.exits import Exit
from orchd_ops.cli.invocation import invocation
from orchd_ops.cli.output import say
from orchd_ops.cli.paging import (
    filter_option,
    listing,
    paging_options,
    without_nothing,
)
from orchd_ops.cli.reach import reached
from orchd_ops.cli.tasks import summarise
from orchd_ops.cli.verbs import VerbGroup, examples

COLUMNS = ("id", "queue", "executor", "error_class", "attempts", "updated_at", "summary")

Function = TypeVar("Function", bound=Callable[..., Any])


@click.group(cls=VerbGroup)
def dlq() -> None:
    """Look at dead letters; requeue or discard them."""


def _filters(function: Function) -> Function:
    for option in (
        filter_option(
            "--older-than", metavar="TIME", help="Last changed before; 2d: 2 d ago."
        ),
        filter_option("--error-class", metavar="NAME"),
        filter_option("--executor", metavar="NAME"),
        filter_option("--queue", metavar="NAME"),
        click.option("--all", "everything", is_flag=True, help="All dead letters."),
    ):
        function = option(function)
    return function


def _action(function: Function) -> Function:
    for option in (
        click.option("--rate", metavar="N/s", help="At most so many a second; N/m, N/h."),
        click.option("--reason", metavar="TEXT", help="Kept in the log."),
        click.option("--dry-run", is_flag=True, help="Only say what would happen."),
    ):
        function = option(function)
    ids = click.argument("task_ids", metavar="[ID]...", nargs=-1)
    return ids(_filters(function))


@examples("orchd dlq list", "orchd dlq list --error-class timeout --older-than 1d")
@dlq.command("list")
@_filters
@paging_options
@click.pass_context
def list_dead_letters(context: click.Context, /, everything: bool, **query: Any) -> None:
    """List dead letters, newest first; without a filter all of them."""
    del everything
    listing(invocation(context), "/v1/dlq", query, COLUMNS, summarise)


@examples("orchd dlq show 0199-…")
@dlq.command()
@click.argument("task_id", metavar="ID")
@click.pass_context
def show(context: click.Context, task_id: str) -> None:
    """Show a dead letter."""
    call = invocation(context)
    with reached(call, write=False) as found:
        item = found.client.get(task_id)
    if item["status"] not in ("failed", "discarded"):
        problem = {"detail": f"task {task_id} is {item['status']}, not a dead letter"}
        raise NotFound(404, problem)
    call.output.single(item)


@examples(
    "orchd dlq requeue 0199-…",
    "orchd dlq requeue --executor claude --error-class dependency --rate 5/s",
    "orchd dlq requeue --all --dry-run",
)
@dlq.command()
@_action
@click.option("--verify-only", is_flag=True, help="Judge the recorded result again.")
@click.pass_context
def requeue(context: click.Context, /, task_ids: tuple[str, ...], **choice: Any) -> int:
    """Give dead letters a new round of attempts.

    Name their IDs, or choose by filters. Repeating the command starts nothing twice.
    """
    return _act(context, "requeue", task_ids, choice)


@examples("orchd dlq discard 0199-…", "orchd dlq discard --older-than 30d --reason old")
@dlq.command()
@_action
@click.pass_context
def discard(context: click.Context, /, task_ids: tuple[str, ...], **choice: Any) -> int:
    """Put dead letters away; they can still be requeued."""
    return _act(context, "discard", task_ids, choice)


def _act(
    context: click.Context, verb: str, task_ids: tuple[str, ...], choice: dict[str, Any]
) -> int:
    choice["all"] = choice.pop("everything")
    filters = ("all", "queue", "executor", "error_class", "older_than")
    chosen = [name for name in filters if choice.get(name)]
    if bool(task_ids) == bool(chosen):
        raise click.UsageError(f"{verb} needs IDs or filters (--all, --queue, …), not both")
    _check_rate(choice.get("rate"))
    call = invocation(context)
    with reached(call, write=not choice.get("dry_run")) as found:
        items = list(
            found.client.act_on_dead_letters(verb, task_ids, **without_nothing(choice))
        )
    call.output.listing(items, ("id", "outcome", "detail"))
    refused = [item for item in items if item["outcome"] in ("conflict", "not_found")]
    say(f"{len(items) - len(refused)} of {len(items)} {_done(verb, choice['dry_run'])}")
    return Exit.CONFLICT if refused and task_ids and not choice["dry_run"] else Exit.DONE


def _done(verb: str, dry_run: bool) -> str:
    past = "requeued" if verb == "requeue" else "discarded"
    return f"would be {past}" if dry_run else past


def _check_rate(text: str | None) -> None:
    if text is None:
        return
    try:
        parse_rate(text)
    except Invalid as error:
        rule = error.faults[0].rule
        raise click.UsageError(f"--rate {rule}, and not {text!r}") from None
