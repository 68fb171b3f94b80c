"""`orchd replay`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from orchd.config.instants import INSTANT_RULE, format_instant, parse_past
from orchd.system import RealSystem
from orchd_ops.cli.exits import Exit
from orchd_ops.cli.invocation import Invocation, invocation
from orchd_ops.cli.output import as_json, clean, say, write
from orchd_ops.cli.verbs import Verb, examples
from orchd_ops.cli.working import shown_progress

if TYPE_CHECKING:
    from orchd.maintenance.difference import Difference
    from orchd.maintenance.replay import Options
    from orchd.maintenance.resuming import Record

AT_COLUMNS = ("id", "status", "queue", "executor", "attempts", "runs", "version")


@examples(
    "orchd replay --check",
    "orchd replay",
    "orchd replay --at 1200",
    "orchd replay --at 2026-11-24T09:30:00Z --task 0199-…",
    "orchd replay --at 2h -o jsonl > two-hours-ago.jsonl",
)
@click.command(cls=Verb)
@click.option("--check", is_flag=True, help="Change nothing; exit 1 on any difference.")
@click.option("--dry-run", is_flag=True, help="Change nothing; say what would be mended.")
@click.option("--at", metavar="POSITION|TIME", help="Show the tasks as they were then.")
@click.option("--task", "task_id", metavar="ID", help="Only this task.")
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Examine with N processes (default: one on each core).",
)
@click.option(
    "--restart", is_flag=True, help="Begin anew, also after a replay that was interrupted."
)
@click.pass_context
def replay(
    context: click.Context, /, check: bool, dry_run: bool, at: str | None, **options: Any
) -> int:
    """Rebuild everything that is derived from the log, naming what differed.

    Works while daemons run; on SQLite the daemon itself then writes what is mended.
    --check changes nothing. Interrupted, the same command goes on where it was.
    """
    call = invocation(context)
    if at is not None:
        if check or dry_run:
            raise click.UsageError("--at only shows; leave out --check and --dry-run")
        _show_at(call, at, options["task_id"])
        return Exit.DONE
    mends = not (check or dry_run)
    count = _differences(call, mends=mends, **options)
    if not count:
        say("no differences")
    else:
        say(f"{_counted(count)}{', mended' if mends else '; nothing was changed'}")
    return Exit.FAILED if check and count else Exit.DONE


def _counted(count: int) -> str:
    return "1 difference" if count == 1 else f"{count} differences"


def _differences(
    call: Invocation, *, mends: bool, task_id: str | None, jobs: int | None, restart: bool
) -> int:
    from orchd.maintenance import resuming
    from orchd.maintenance.replay import Options

    system = RealSystem()
    mode = resuming.MEND if mends else resuming.CHECK
    resumption = None
    if task_id is None:
        resumption = resuming.Resumption(call.loaded.settings.database, system, mode)
        if restart:
            resumption.forget()
    with shown_progress("mending" if mends else "checking") as progress:
        options = Options(
            task_id=task_id,
            jobs=jobs,
            progress=progress,
            resumption=resumption,
            resumed=_say_resumed,
        )
        with _replay(call, system, options, mends=mends) as differences:
            return _write_differences(call, differences)


def _say_resumed(record: Record) -> None:
    done, parts = len(record.done), len(record.bounds) + 1
    began = format_instant(record.began_at // 1_000_000 * 1_000_000)
    say(
        f"going on with the replay that began at {began}: {done} of {parts} parts"
        " are done (--restart begins anew)"
    )


@contextmanager
def _replay(
    call: Invocation, system: RealSystem, options: Options, *, mends: bool
) -> Iterator[Iterator[Difference]]:
    from orchd.maintenance.replay import check, mend
    from orchd_ops.cli.upkeep import DaemonMender, sqlite_daemon

    database = call.loaded.settings.database
    if not mends:
        yield check(database, system=system, options=options)
        return
    with sqlite_daemon(call) as client:
        mender = None if client is None else DaemonMender(client)
        yield mend(database, system=system, options=options, mender=mender)


def _write_differences(call: Invocation, differences: Iterator[Difference]) -> int:
    collected: list[dict[str, Any]] = []
    count = 0
    for found in differences:
        count += 1
        if call.output.form == "table":
            write(clean(str(found)))
        elif call.output.form == "jsonl":
            write(as_json(found.as_dict()))
        else:
            collected.append(found.as_dict())
    if call.output.form == "json":
        call.output.listing(collected, ())
    return count


# --- looking back ---------------------------------------------------------------------


def _show_at(call: Invocation, at: str, task_id: str | None) -> None:
    from orchd.maintenance.looking_back import views_at

    position = int(at) if at.isascii() and at.isdigit() else None
    instant = None if position is not None else _instant(at)
    with shown_progress("replaying") as progress:
        views = views_at(
            call.loaded.settings.database,
            system=RealSystem(),
            position=position,
            instant=instant,
            task_id=task_id,
            progress=progress,
        )
        if call.output.form == "jsonl":
            call.output.listing(views, AT_COLUMNS)
        else:
            call.output.listing(list(views), AT_COLUMNS)


def _instant(text: str) -> int:
    try:
        return parse_past(text, RealSystem().now())
    except ValueError:
        rule = f"--at must be a position of the log, or {INSTANT_RULE}"
        raise click.UsageError(f"{rule}; it is {text!r}") from None
