"""`orchd doctor`."""

from __future__ import annotations

from typing import Any

import click

from orchd.config.settings import Settings
from orchd.errors import ConfigurationError
from orchd.system import RealSystem
from orchd_ops.cli.exits import Exit
from orchd_ops.cli.invocation import Invocation, invocation
from orchd_ops.cli.output import as_json, clean, write
from orchd_ops.cli.verbs import Verb, examples
from orchd_ops.cli.working import shown_progress

_MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


@examples("orchd doctor", "orchd doctor --repair")
@click.command(cls=Verb)
@click.option("--repair", is_flag=True, help="Mend what the log can mend.")
@click.pass_context
def doctor(context: click.Context, repair: bool) -> int:
    """Check configuration, database, versions and every invariant; exit 1 on a failure."""
    from orchd.maintenance import doctor as work

    call = invocation(context)
    settings, problem = _settings(call)
    items: list[dict[str, Any]] = []
    with shown_progress("examining") as progress:
        if repair:
            findings = work.repair(settings, system=RealSystem(), progress=progress)
        else:
            findings = work.examine(
                settings, system=RealSystem(), config_problem=problem, progress=progress
            )
        for finding in findings:
            items.append(finding.as_dict())
            _write(call, items[-1])
    if call.output.form == "json":
        call.output.listing(items, ())
    # With --repair a check may appear twice; what counts is how it ended.
    last = {item["check"]: item["level"] for item in items}
    return Exit.FAILED if "fail" in last.values() else Exit.DONE


def _settings(call: Invocation) -> tuple[Settings, str]:
    try:
        return call.loaded.settings, ""
    except ConfigurationError as error:
        from pathlib import Path

        from orchd.config.loading import load

        usual = load(environ={}, directory=Path("/")).settings
        return usual, str(error)


def _write(call: Invocation, item: dict[str, Any]) -> None:
    if call.output.form == "jsonl":
        write(as_json(item))
    elif call.output.form == "table":
        hint = f" ({item['hint']})" if item.get("hint") else ""
        mark = _MARKS[item["level"]]
        write(f"{mark}  {clean(item['check'])}: {clean(item['detail'] + hint)}")
