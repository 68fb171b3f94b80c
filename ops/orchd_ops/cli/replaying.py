"""`orchd replay`."""

from __future__ import annotations

from typing import Any

import click

from orchd.config.instants import INSTANT_RULE, format_instant, parse_past
from orchd.system import RealSystem
from orchd_ops.cli.exits import Exit
from orchd_ops.cli.invocation import Invocation, invocation
from orchd_ops.cli.output import as_json, clean, say, write
from orchd_ops.cli.verbs import Verb, examples
from orchd_ops.cli.working import shown_progress

AT_COLUMNS = ("id", "status", "queue", "executor", "attempts", "runs", "version")


@examples(
    "orchd replay --check",
    "orchd replay --at 1200",
    "orchd replay --at 2026-11-24T09:30:00Z --task 0199-…",
)
@click.command(cls=Verb)
@click.option("--check", is_flag=True, help="Change nothing; exit 1 on any difference.")
@click.option("--dry-run", is_flag=True, help="Change nothing; say what would be mended.")
@click.option("--at", metavar="POSITION|TIME", help="Show the tasks as they were then.")
@click.option("--task", "task_id", metavar="ID", help="Only this task.")
@click.pass_context
def replay(
    context: click.Context, check: bool, dry_run: bool, at: str | None, task_id: str | None
) -> int:
    """Rebuild everything that is derived from the log, naming what differed.

    --check changes nothing, and works while a daemon runs.
    """
    call = invocation(context)
    if at is not None:
        if check or dry_run:
            raise click.UsageError("--at only shows; leave out --check and --dry-run")
        _show_at(call, at, task_id)
        return Exit.DONE
    count = _differences(call, task_id, mend=not (check or dry_run))
    if check or dry_run:
        say(f"{_counted(count)}; nothing was changed" if count else "no differences")
        return Exit.FAILED if check and count else Exit.DONE
    say(f"{_counted(count)}, mended" if count else "no differences")
    return Exit.DONE


def _counted(count: int) -> str:
    return "1 difference" if count == 1 else f"{count} differences"


def _differences(call: Invocation, task_id: str | None, *, mend: bool) -> int:
    from orchd.maintenance import replay as work

    database = call.loaded.settings.database
    run = work.mend if mend else work.check
    collected: list[dict[str, Any]] = []
    count = 0
    with shown_progress("replaying") as progress:
        for found in run(database, system=RealSystem(), task_id=task_id, progress=progress):
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


def _show_at(call: Invocation, at: str, task_id: str | None) -> None:
    from orchd.maintenance.replay import states_at

    position = int(at) if at.isascii() and at.isdigit() else None
    instant = None if position is not None else _instant(at)
    with shown_progress("replaying") as progress:
        states = list(
            states_at(
                call.loaded.settings.database,
                system=RealSystem(),
                position=position,
                instant=instant,
                task_id=task_id,
                progress=progress,
            )
        )
    call.output.listing([_as_item(state) for state in states], AT_COLUMNS)


def _instant(text: str) -> int:
    try:
        return parse_past(text, RealSystem().now())
    except ValueError:
        rule = f"--at must be a position of the log, or {INSTANT_RULE}"
        raise click.UsageError(f"{rule}; it is {text!r}") from None


def _as_item(state: Any) -> dict[str, Any]:
    import msgspec

    item: dict[str, Any] = msgspec.to_builtins(state)
    for name, value in item.items():
        if name.endswith("_at") and isinstance(value, int):
            item[name] = format_instant(value)
    return item
