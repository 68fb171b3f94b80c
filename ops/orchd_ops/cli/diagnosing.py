"""`orchd doctor`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from orchd.config.settings import Settings
from orchd.errors import ConfigurationError
from orchd.system import RealSystem
from orchd_ops.cli.exits import Exit
from orchd_ops.cli.invocation import Invocation, invocation
from orchd_ops.cli.output import as_json, clean, say, write
from orchd_ops.cli.verbs import Verb, examples
from orchd_ops.cli.working import shown_progress

if TYPE_CHECKING:
    from orchd.maintenance.findings import Finding
    from orchd.maintenance.progress import Progress

_MARKS = {"ok": "ok", "mended": "mended", "warn": "warn", "fail": "FAIL"}
_COLORS = {"ok": "green", "mended": "cyan", "warn": "yellow", "fail": "red"}
_CHECK_WIDTH = 15
_HINT_INDENT = " " * (8 + _CHECK_WIDTH)


@examples("orchd doctor", "orchd doctor --repair", "orchd doctor -o jsonl")
@click.command(cls=Verb)
@click.option("--repair", is_flag=True, help="First mend what can be, saying what it was.")
@click.pass_context
def doctor(context: click.Context, repair: bool) -> int:
    """Check configuration, database, versions and every invariant; exit 1 on a failure.

    Changes nothing without --repair, and works while daemons run.
    """
    call = invocation(context)
    settings, problem = _settings(call)
    items: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    with shown_progress("examining") as progress:
        for finding in _findings(call, settings, problem, progress, repair=repair):
            counts[finding.level] += 1
            items.append(finding.as_dict())
            _write(call, items[-1])
    if call.output.form == "json":
        call.output.listing(items, ())
    say(_summary(counts))
    return Exit.FAILED if counts["fail"] else Exit.DONE


def _findings(
    call: Invocation, settings: Settings, problem: str, progress: Progress, *, repair: bool
) -> Iterator[Finding]:
    from orchd.maintenance import doctor as work
    from orchd_ops.cli.upkeep import DaemonMender, sqlite_daemon

    system = RealSystem()
    if not repair or problem:
        yield from work.examine(
            settings, system=system, config_problem=problem, progress=progress
        )
        return
    with sqlite_daemon(call) as client:
        daemon = None if client is None else DaemonMender(client)
        yield from work.repair(settings, system=system, progress=progress, daemon=daemon)


def _settings(call: Invocation) -> tuple[Settings, str]:
    try:
        return call.loaded.settings, ""
    except ConfigurationError as error:
        from pathlib import Path

        from orchd.config.loading import load

        usual = load(environ={}, directory=Path("/")).settings
        return usual, str(error)


def _summary(counts: Counter[str]) -> str:
    if not counts["fail"] and not counts["warn"]:
        return "everything is in order"
    words = [
        f"{counts[level]} {word if counts[level] == 1 else word + 's'}"
        for level, word in (("fail", "failure"), ("warn", "warning"))
        if counts[level]
    ]
    return ", ".join(words)


def _write(call: Invocation, item: dict[str, Any]) -> None:
    if call.output.form == "jsonl":
        write(as_json(item))
    elif call.output.form == "table":
        mark = f"{_MARKS[item['level']]:<6}"
        if call.output.color and sys.stdout.isatty():
            mark = click.style(mark, fg=_COLORS[item["level"]])
        check = clean(item["check"])
        write(f"{mark}  {check:<{_CHECK_WIDTH}}{clean(item['detail'])}")
        if item.get("hint"):
            write(f"{_HINT_INDENT}{clean(item['hint'])}")
