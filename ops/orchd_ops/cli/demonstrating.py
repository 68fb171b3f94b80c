"""`orchd demo`."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import click

from orchd.system import RealSystem
from orchd_ops.cli.exits import Exit, Failure
from orchd_ops.cli.invocation import invocation
from orchd_ops.cli.output import say, write
from orchd_ops.cli.verbs import Verb, examples

COLUMNS = ("id", "status", "executor", "attempts", "runs", "outcome")
_OUTCOME_CHARACTERS = 50


@examples("orchd demo", "orchd demo --keep ./demo-state")
@click.command(cls=Verb)
@click.option(
    "--keep", metavar="DIR", help="Put the state here (default: a temporary place)."
)
@click.pass_context
def demo(context: click.Context, keep: str | None) -> None:
    """Show what orchd does: verify, retry with feedback, dead letters, a breaker.

    Runs a few tasks on the real engine; needs no key and no network. What it tells is
    the event log, line by line, and stays in the state for you to look at.
    """
    from orchd.config.loading import load
    from orchd_ops.demo.running import run_story
    from orchd_ops.demo.story import configuration

    call = invocation(context)
    directory = _directory(keep)
    file = directory / "orchd.toml"
    file.write_text(configuration(directory) + "\n")
    settings = load(environ={}, directory=directory, config=str(file)).settings
    tell = write if call.output.form == "table" else say
    tell("The story, as the event log has it (position, task, what happened):")
    items = asyncio.run(run_story(settings, directory, RealSystem(), tell))
    tell("")
    call.output.listing([{**item, "outcome": _outcome(item)} for item in items], COLUMNS)
    _hint(tell, file, settings.database)


def _directory(keep: str | None) -> Path:
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="orchd-demo-"))
    directory = Path(keep).absolute()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("orchd.db", "orchd.toml"):
        if os.path.lexists(directory / name):
            message = f"{directory} holds {name} already; choose an empty directory"
            raise Failure(message, Exit.CONFLICT)
    return directory


def _outcome(item: dict[str, object]) -> str:
    text = str(item["result"] or item["error"] or "").strip()
    line = text.replace("\n", " / ")
    return line if len(line) <= _OUTCOME_CHARACTERS else line[:_OUTCOME_CHARACTERS] + "…"


def _hint(tell: object, file: Path, database: str) -> None:
    assert callable(tell)
    config, url = shlex.quote(str(file)), shlex.quote(database)
    orchd = _program()
    for line in (
        "",
        f"The state is in {file.parent}. Try next:",
        f"  {orchd} --database {url} log export",
        f"  {orchd} --database {url} replay --check",
        f"  {orchd} --database {url} task show haiku",
        f"  {orchd} --config {config} dlq requeue hopeless",
        f"  {orchd} --config {config} serve --until-idle --listen 127.0.0.1:0",
    ):
        tell(line)


def _program() -> str:
    """Return what a shell here starts this program with: its path, unless on $PATH."""
    called = sys.argv[0]
    if Path(called).name != "orchd" or shutil.which("orchd"):
        return "orchd"
    return shlex.quote(called)
