"""`orchd task erase`, with a daemon and without one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.command_line import CommandLine

SECRET = "Rumpelstiltskin"


@pytest.fixture
def either(tmp_path: Path, database_url: str) -> Iterator[CommandLine]:
    """Commands on an empty state, once for each kind of database."""
    command_line = CommandLine(tmp_path, database_url)
    yield command_line
    command_line.close()


def _finish(cli: CommandLine) -> None:
    for name in ("a", "b"):
        cli.ok("submit", SECRET, "--executor", "echo", "--id", name, "--wait")


def test_finished_tasks_are_erased_through_the_daemon_and_without_it(
    either: CommandLine,
) -> None:
    daemon = either.serve()
    _finish(either)
    head = either.ok("log", "verify", "-o", "json").json["hash"]
    done = either.ok("task", "erase", "a", "--reason", "asked for")
    assert done.stdout == "task a: erased in 2 events, with 0 large bodies\n"
    daemon.stop()
    assert either.ok("task", "erase", "a", "b").stdout.splitlines() == [
        "task a: nothing was left to erase",
        "task b: erased in 2 events, with 0 large bodies",
    ]
    assert SECRET not in either.ok("log", "export").stdout
    shown = either.ok("task", "show", "a", "-o", "json").json
    assert (shown["status"], shown["description"]) == (
        "completed",
        "[orchd: this body was erased]",
    )
    last = either.ok("task", "events", "a", "-o", "json").json["items"][-1]
    assert (last["type"], last["meta"]["reason"]) == ("task.erased", "asked for")
    either.ok("log", "verify", "--known", head)
    either.ok("replay", "--check")


def test_what_is_not_finished_or_not_there_is_left_alone(cli: CommandLine) -> None:
    cli.ok("submit", SECRET, "--executor", "echo", "--id", "a", "--in", "1h")
    assert cli.run("task", "erase", "a").code == 4
    assert cli.run("task", "erase", "nobody").code == 3
    assert cli.run("task", "erase").code == 2
    assert SECRET in cli.ok("task", "show", "a").stdout


def test_what_was_erased_before_one_failed_is_said(cli: CommandLine) -> None:
    cli.ok("submit", SECRET, "--executor", "echo", "--id", "a")
    cli.ok("serve", "--until-idle", "--listen", "127.0.0.1:0")
    done = cli.run("task", "erase", "a", "nobody")
    assert done.code == 3
    assert done.stdout == "task a: erased in 2 events, with 0 large bodies\n"


def test_an_erased_dead_letter_is_promised_no_new_round(cli: CommandLine) -> None:
    failing = ("--payload", '{"success": false}', "--max-attempts", "1")
    cli.ok("submit", SECRET, "--id", "a", "--executor", "fake", *failing)
    cli.ok("serve", "--until-idle", "--listen", "127.0.0.1:0")
    cli.ok("task", "erase", "a")
    assert "cannot run again" in cli.ok("task", "why", "a").stdout
    for option in ("--dry-run", "--all"):
        answer = cli.run("dlq", "requeue", "--all", option, "-o", "json").json
        [item] = answer["items"]
        assert (item["outcome"], item["detail"]) == (
            "conflict",
            "the bodies of task a were erased",
        )
