"""`orchd log`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

import click

from orchd.system import RealSystem
from orchd_ops.cli.exits import Exit
from orchd_ops.cli.invocation import Invocation, invocation
from orchd_ops.cli.output import as_json, clean
from orchd_ops.cli.reach import reached
from orchd_ops.cli.verbs import VerbGroup, examples
from orchd_ops.cli.working import shown_progress

TAIL_EVENTS = 10
HOLD_SECONDS = 20.0


@click.group(cls=VerbGroup)
def log() -> None:
    """Follow, export and verify the event log."""


@examples("orchd log tail", "orchd log tail -f --from 1200")
@log.command()
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows, until Ctrl-C.")
@click.option(
    "--from", "first", type=click.IntRange(min=1), metavar="N", help="Begin at position N."
)
@click.pass_context
def tail(context: click.Context, follow: bool, first: int | None) -> None:
    """Print the last events, one JSON object a line."""
    call = invocation(context)
    after = None if first is None else first - 1
    if call.url is not None:
        _write_lines(_from_daemon(call, after, follow=follow))
        return
    from orchd.maintenance.exporting import tail as lines

    _write_lines(
        lines(
            call.loaded.settings.database,
            system=RealSystem(),
            after=after,
            count=TAIL_EVENTS,
            follow=follow,
        )
    )


@examples("orchd log export > log.jsonl")
@log.command()
@click.option("--format", "form", type=click.Choice(["jsonl"]), default="jsonl")
@click.pass_context
def export(context: click.Context, form: str) -> None:
    """Print the whole log, one JSON object a line."""
    del form
    call = invocation(context)
    if call.url is not None:
        _write_lines(_from_daemon(call, 0, follow=False))
        return
    from orchd.maintenance.exporting import export as lines

    _write_lines(lines(call.loaded.settings.database, system=RealSystem()))


@examples("orchd log verify")
@log.command()
@click.pass_context
def verify(context: click.Context) -> int:
    """Check positions, versions and the hash chain; name the first bad commit."""
    from orchd.maintenance.verifying import verify_log

    call = invocation(context)
    with shown_progress("verifying") as progress:
        verdict = verify_log(
            call.loaded.settings.database, system=RealSystem(), progress=progress
        )
    whole = f"{verdict.events} events in {verdict.commits} commits: the chain holds"
    sentence = whole if verdict.ok else clean(verdict.problem)
    call.output.acted(verdict.as_dict(), sentence)
    return Exit.DONE if verdict.ok else Exit.FAILED


def _write_lines(lines: Iterable[bytes]) -> None:
    for line in lines:
        sys.stdout.buffer.write(line)
        # Whoever follows the log wants each event at once; a pipe would hold it back.
        sys.stdout.buffer.flush()


def _from_daemon(call: Invocation, after: int | None, *, follow: bool) -> Iterator[bytes]:
    with reached(call, write=False) as found:
        client = found.client
        if after is None:
            positions = [item["position"] for item in client.pages("/v1/log", limit=1000)]
            after = max(0, (positions[-1] if positions else 0) - TAIL_EVENTS)
        while True:
            hold = f"&wait={HOLD_SECONDS:g}s" if follow else ""
            page = client.request("GET", f"/v1/log?after={after}&limit=1000{hold}")
            for item in page["items"]:
                yield as_json(item).encode() + b"\n"
                after = item["position"]
            if not page["items"] and not follow:
                return
