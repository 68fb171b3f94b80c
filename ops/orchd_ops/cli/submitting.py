"""`orchd submit`."""

from __future__ import annotations

from typing import Any

import click

from orchd.config.instants import format_instant, parse_instant
from orchd.system import RealSystem
from orchd_ops.cli.exits import Exit
from orchd_ops.cli.invocation import Invocation, invocation
from orchd_ops.cli.output import clean, say
from orchd_ops.cli.paging import without_nothing
from orchd_ops.cli.reach import reached
from orchd_ops.cli.verbs import Verb, examples
from orchd_ops.cli.waiting import seconds_of, wait_for


@examples(
    "orchd submit 'count the words in this text' --executor count",
    "orchd submit 'Summarise chapter 3' --executor claude --verifier facts --wait",
    "orchd submit 'nightly report' --at 2026-11-25T02:00:00Z --queue nightly",
    "orchd submit --file tasks.jsonl",
    'echo \'{"description": "hello"}\' | orchd submit --file - --executor echo',
)
@click.command(cls=Verb)
@click.argument("text", required=False)
@click.option("--id", "id", metavar="ID", help="The task's id; repeating it is safe.")
@click.option("--idempotency-key", metavar="KEY", help="One task per key, however often.")
@click.option("--executor", metavar="NAME", help="What executes the task.")
@click.option(
    "--verifier", "verifiers", metavar="NAME", multiple=True, help="Repeatable, in order."
)
@click.option("--queue", metavar="NAME", help="Default: default.")
@click.option("--priority", type=int, metavar="N", help="Higher first; default 0.")
@click.option("--at", metavar="TIME", help="Not before this time.")
@click.option("--in", "delay", metavar="DURATION", help="Not before this long from now.")
@click.option("--max-attempts", type=click.IntRange(min=1), metavar="N")
@click.option("--timeout", metavar="DURATION", help="Longest execution of one attempt.")
@click.option("--payload", metavar="JSON", help="Structured input beside the text.")
@click.option("--metadata", metavar="K=V", multiple=True, help="Repeatable.")
@click.option("--file", metavar="FILE", help="Submit each line of a JSONL file, or of -.")
@click.option("--wait", is_flag=True, help="Wait for the end; exit 1 unless completed.")
@click.pass_context
def submit(
    context: click.Context,
    /,
    text: str | None,
    file: str | None,
    wait: bool,
    **options: Any,
) -> int:
    """Submit TEXT as one task and print its id, or a file of tasks.

    A file has one JSON object a line, with the fields of the HTTP API; options fill in
    what a line leaves out. The whole file is checked before anything is sent. Repeating
    the same command finishes an interrupted one and submits nothing twice.
    """
    call = invocation(context)
    fields = _fields(options)
    if file is not None:
        _refuse_for_file(text, fields)
        from orchd_ops.cli.bulk import submit_file

        return submit_file(call, file, fields, wait=wait)
    if text is None and "payload" not in fields:
        raise click.UsageError("give the task's TEXT, a --payload, or a --file")
    return _submit_one(call, text, fields, wait=wait)


def _submit_one(
    call: Invocation, text: str | None, fields: dict[str, Any], *, wait: bool
) -> int:
    with reached(call, write=True) as found:
        task = found.client.submit(text, **fields)
    if not wait:
        call.output.acted(task, clean(task["id"]))
        return Exit.DONE
    if call.output.form == "table":
        call.output.acted(task, clean(task["id"]))
    (task,) = wait_for(call, (task["id"],))
    if call.output.form != "table":
        call.output.single(task)
    else:
        say(_ending(task))
    return Exit.DONE if task["status"] == "completed" else Exit.FAILED


def _ending(task: dict[str, Any]) -> str:
    if task["status"] == "completed":
        return "completed"
    return f"{task['status']}: {clean(task['error'] or 'no error was recorded')}"


def _fields(options: dict[str, Any]) -> dict[str, Any]:
    seconds_of(options.get("delay"), "--in")
    seconds_of(options.get("timeout"), "--timeout")
    if options.get("at") and options.get("delay"):
        raise click.UsageError("--at and --in exclude each other")
    fields = {
        **options,
        "run_at": _run_at(options.pop("at")),
        "metadata": _metadata(options.get("metadata", ())),
        "payload": None,
    }
    fields.pop("at", None)
    given = without_nothing(fields)
    if options.get("priority") is not None:
        given["priority"] = options["priority"]
    if options.get("payload") is not None:
        given["payload"] = _payload(options["payload"])
    return given


def _run_at(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return format_instant(parse_instant(text, RealSystem().now()))
    except ValueError as error:
        raise click.UsageError(f"--at {error}, but it is {text!r}") from None


def _payload(text: str) -> Any:
    from orchd.operations.errors import OperationError
    from orchd.operations.json_text import read_json

    try:
        return read_json(text.encode("utf-8", "surrogateescape"))
    except OperationError as error:
        raise click.UsageError(f"--payload must be JSON: {error.detail}") from None


def _metadata(pairs: tuple[str, ...]) -> dict[str, str]:
    metadata = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise click.UsageError(f"--metadata must be K=V, but it is {pair!r}")
        metadata[name] = value
    return metadata


def _refuse_for_file(text: str | None, fields: dict[str, Any]) -> None:
    if text is not None:
        raise click.UsageError("give either TEXT or --file")
    for name in ("id", "idempotency_key"):
        if name in fields:
            option = name.replace("_", "-")
            raise click.UsageError(f"--{option} cannot name all the tasks of a file")
