"""`orchd task`."""

from __future__ import annotations

from typing import Any

import click

from orchd_ops.cli.exits import Exit
from orchd_ops.cli.invocation import Invocation, invocation
from orchd_ops.cli.output import clean, write
from orchd_ops.cli.paging import (
    filter_option,
    listing,
    paging_options,
    path,
    without_nothing,
)
from orchd_ops.cli.reach import reached
from orchd_ops.cli.verbs import VerbGroup, examples
from orchd_ops.cli.waiting import wait_for

STATUSES = ("pending", "in_progress", "completed", "failed", "cancelled", "discarded")
LIST_COLUMNS = ("id", "status", "queue", "executor", "attempts", "created_at", "summary")
ERASE_SECONDS = 120.0
_SUMMARY_CHARACTERS = 48


@click.group(cls=VerbGroup)
def task() -> None:
    """List, show, wait for, cancel and erase tasks."""


@examples(
    "orchd task list --status failed --status cancelled",
    "orchd task list --queue nightly --since 2h -o jsonl",
)
@task.command("list")
@click.option("--status", multiple=True, type=click.Choice(STATUSES), help="Repeatable.")
@filter_option("--queue", metavar="NAME")
@filter_option("--executor", metavar="NAME")
@filter_option("--since", metavar="TIME", help="Created since: a time, or 2h for 2 h ago.")
@paging_options
@click.pass_context
def list_tasks(
    context: click.Context, /, limit: int, cursor: str | None, **filters: Any
) -> None:
    """List tasks, newest first."""
    listing(
        invocation(context),
        "/v1/tasks",
        {**filters, "limit": limit, "cursor": cursor},
        LIST_COLUMNS,
        summarise,
    )


def summarise(item: dict[str, Any]) -> dict[str, Any]:
    """Add what a table's last column says of a task."""
    text = str(item.get("error") or item.get("description") or "")
    line = clean(text.strip().partition("\n")[0])
    if len(line) > _SUMMARY_CHARACTERS:
        line = line[: _SUMMARY_CHARACTERS - 1] + "…"
    return {**item, "summary": line}


@examples("orchd task show 0199-…", "orchd task show 0199-… -o json | jq .result")
@task.command()
@click.argument("task_id", metavar="ID")
@click.pass_context
def show(context: click.Context, task_id: str) -> None:
    """Show a task with its whole description and result."""
    call = invocation(context)
    with reached(call, write=False) as found:
        call.output.single(found.client.get(task_id))


@examples("orchd task events 0199-…")
@task.command()
@click.argument("task_id", metavar="ID")
@click.pass_context
def events(context: click.Context, task_id: str) -> None:
    """List everything that happened to a task, in order."""
    call = invocation(context)
    with reached(call, write=False) as found:
        items = found.client.events(task_id)
    call.output.listing(items, ("position", "version", "type", "recorded_at", "data"))


@examples("orchd task wait 0199-… --timeout 10m && echo done")
@task.command()
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--timeout", metavar="DURATION", help="Stop waiting after this (exit 75).")
@click.pass_context
def wait(context: click.Context, task_ids: tuple[str, ...], timeout: str | None) -> int:
    """Wait until tasks are completed, failed, cancelled or discarded.

    Exits with 0 when all of them completed, else with 1.
    """
    call = invocation(context)
    tasks = wait_for(call, task_ids, timeout)
    if len(tasks) == 1 and call.output.form != "table":
        call.output.single(tasks[0])
    else:
        call.output.listing(map(summarise, tasks), ("id", "status", "attempts", "summary"))
    completed = all(item["status"] == "completed" for item in tasks)
    return Exit.DONE if completed else Exit.FAILED


@examples("orchd task cancel 0199-… --reason 'wrong input'")
@task.command()
@click.argument("task_id", metavar="ID")
@click.option("--reason", default="", metavar="TEXT", help="Kept in the log.")
@click.pass_context
def cancel(context: click.Context, task_id: str, reason: str) -> None:
    """Cancel a task; a running one is stopped."""
    call = invocation(context)
    with reached(call, write=True) as found:
        item = found.client.request(
            "POST", path("tasks", task_id, "cancel"), without_nothing({"reason": reason})
        )
    asked = item["status"] == "in_progress"
    done = "is being stopped" if asked else f"is {item['status']}"
    call.output.acted(item, f"task {clean(item['id'])} {done}")


@examples(
    "orchd task erase 0199-… --reason 'asked for by the customer'",
    "orchd task list --status completed -o jsonl | jq -r .id | xargs orchd task erase",
)
@task.command()
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--reason", default="", metavar="TEXT", help="Kept in the log.")
@click.pass_context
def erase(context: click.Context, task_ids: tuple[str, ...], reason: str) -> None:
    """Erase what finished tasks said and were told; their history stays.

    Description, payload, metadata, result, feedback and error texts go for good; ids,
    names, times and the log's chain stay. Checkpoints that were made before still hold
    them, and on PostgreSQL old row versions do until VACUUM.
    """
    call = invocation(context)
    items: list[dict[str, Any]] = []
    try:
        with reached(call, write=True) as found:
            for task_id in task_ids:
                items.append(
                    found.client.request(
                        "POST",
                        path("tasks", task_id, "erase"),
                        without_nothing({"reason": reason}),
                        timeout_seconds=ERASE_SECONDS,
                        repeat=True,
                    )
                )
    finally:
        # What was erased before one of them failed is gone, and has to be said.
        _say_erased(call, items)


def _say_erased(call: Invocation, items: list[dict[str, Any]]) -> None:
    if call.output.form != "table":
        call.output.listing(items, ())
        return
    for item in items:
        what = f"erased in {item['events']} events, with {item['bodies']} large bodies"
        done = what if item["events"] else "nothing was left to erase"
        write(f"task {clean(item['id'])}: {done}")


@examples("orchd task why 0199-…")
@task.command()
@click.argument("task_id", metavar="ID")
@click.pass_context
def why(context: click.Context, task_id: str) -> None:
    """Say in plain sentences why a task is where it is."""
    call = invocation(context)
    with reached(call, write=False) as found:
        answer = found.client.why(task_id)
    if call.output.form != "table":
        call.output.single(answer)
        return
    for sentence in answer["reasons"]:
        write(clean(sentence))
