"""`orchd log`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from orchd.client import Client, Unavailable
from orchd.maintenance.progress import Progress, silent
from orchd.system import RealSystem
from orchd.transport import Unreachable
from orchd_ops.cli.exits import Exit
from orchd_ops.cli.invocation import Invocation, invocation
from orchd_ops.cli.output import as_json, clean, say
from orchd_ops.cli.reach import reached
from orchd_ops.cli.verbs import VerbGroup, examples
from orchd_ops.cli.working import shown_progress

TAIL_EVENTS = 10
HOLD_SECONDS = 20.0
RETRY_SECONDS = 1.0
"""How often a daemon that went away is asked again."""


@click.group(cls=VerbGroup)
def log() -> None:
    """Follow, export and verify the event log."""


@examples(
    "orchd log tail",
    "orchd log tail -f --from 1200",
    "orchd log tail -f -n 0 | jq -c 'select(.type == \"task.failed\") | .data'",
)
@log.command()
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows, until Ctrl-C.")
@click.option(
    "--from", "first", type=click.IntRange(min=1), metavar="N", help="Begin at position N."
)
@click.option(
    "-n",
    "--lines",
    "count",
    type=click.IntRange(min=0),
    default=TAIL_EVENTS,
    metavar="N",
    help=f"How many events to begin with (default {TAIL_EVENTS}).",
)
@click.pass_context
def tail(context: click.Context, follow: bool, first: int | None, count: int) -> None:
    """Print the last events, one JSON object a line.

    With -f it waits when the database or the daemon goes away, and misses nothing.
    """
    call = invocation(context)
    after = None if first is None else first - 1
    if call.url is not None:
        lines = _from_daemon(call, after, count=count, follow=follow)
    else:
        from orchd.maintenance import exporting

        lines = exporting.tail(
            call.loaded.settings.database,
            system=RealSystem(),
            after=after,
            count=count,
            follow=follow,
            away=_say_away,
        )
    for line in lines:
        sys.stdout.buffer.write(line)
        # Whoever follows the log wants each event at once; a pipe would hold it back.
        sys.stdout.buffer.flush()


def _say_away(why: str) -> None:
    say(f"waiting: {clean(why)}")


@examples(
    "orchd log export > log.jsonl",
    "orchd log export --from 1201 | gzip > log-1201.jsonl.gz",
)
@log.command()
@click.option("--format", "form", type=click.Choice(["jsonl"]), default="jsonl")
@click.option(
    "--from",
    "first",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Begin at position N.",
)
@click.option("--until", type=click.IntRange(min=0), metavar="N", help="End at position N.")
@click.pass_context
def export(context: click.Context, form: str, first: int, until: int | None) -> None:
    """Print the whole log up to its present end, one JSON object a line."""
    del form
    call = invocation(context)
    with _export_progress() as progress:
        if call.url is not None:
            lines = _from_daemon(call, first - 1, until=until)
        else:
            from orchd.maintenance import exporting

            lines = exporting.export(
                call.loaded.settings.database,
                system=RealSystem(),
                after=first - 1,
                until=until,
                progress=progress,
            )
        sys.stdout.buffer.writelines(lines)


@contextmanager
def _export_progress() -> Iterator[Progress]:
    # A bar between the lines on a terminal would be in their way.
    if sys.stdout.isatty():
        yield silent
    else:
        with shown_progress("exporting") as progress:
            yield progress


@examples("orchd log verify", "orchd log verify --known 9f86d081884c7d65…")
@log.command()
@click.option(
    "--known",
    metavar="HASH",
    help="Fail unless this commit is there: the hash that an earlier verify printed.",
)
@click.pass_context
def verify(context: click.Context, known: str | None) -> int:
    """Check positions, versions and the hash chain; name the first bad commit.

    Keep the hash that it prints elsewhere: only so a log that was cut off can be told.
    """
    from orchd.maintenance.verifying import verify_log

    call = invocation(context)
    with shown_progress("verifying") as progress:
        verdict = verify_log(
            call.loaded.settings.database,
            system=RealSystem(),
            progress=progress,
            known=known,
        )
    whole = (
        f"{verdict.events:,} events in {verdict.commits:,} commits: the chain holds;"
        f" it ends with {verdict.hash}"
    )
    sentence = whole if verdict.ok else clean(verdict.problem)
    call.output.acted(verdict.as_dict(), sentence)
    return Exit.DONE if verdict.ok else Exit.FAILED


def _from_daemon(
    call: Invocation,
    after: int | None,
    *,
    count: int = 0,
    until: int | None = None,
    follow: bool = False,
) -> Iterator[bytes]:
    with reached(call, write=False) as found:
        end = found.client.request("GET", "/v1/log?last=0")["head"]
        start = max(0, end - count) if after is None else after
        up_to = end if until is None else min(until, end)
        for page in _daemon_pages(found.client, start, up_to, follow=follow):
            for item in page:
                if follow or item["position"] <= up_to:
                    yield as_json(item).encode() + b"\n"


def _daemon_pages(
    client: Client, after: int, up_to: int, *, follow: bool
) -> Iterator[list[dict[str, Any]]]:
    system, is_away = RealSystem(), False
    while follow or after < up_to:
        hold = f"&wait={HOLD_SECONDS:g}s" if follow else ""
        try:
            items = client.request("GET", f"/v1/log?after={after}&limit=1000{hold}")[
                "items"
            ]
            is_away = False
        except (Unreachable, Unavailable) as error:
            if not follow:
                raise
            if not is_away:
                _say_away(str(error))
            is_away, items = True, []
            system.block(RETRY_SECONDS)
        if items:
            yield items
            after = items[-1]["position"]
        elif not follow:
            return
