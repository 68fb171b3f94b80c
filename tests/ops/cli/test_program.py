"""The program: help, versions, exit codes, and what it may not load."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from orchd_ops.cli.root import orchd
from support.command_line import PROGRAM, CommandLine

HEAVY = ("sqlalchemy", "anthropic", "starlette", "rich", "alembic", "uvicorn", "jsonschema")


CONTRACT = """
    serve; demo; submit; task list; task show; task events; task wait; task cancel;
    task why; dlq list; dlq show; dlq requeue; dlq discard; queue list; queue pause;
    queue resume; breaker list; breaker reset; replay; checkpoint create;
    checkpoint list; checkpoint verify; checkpoint restore; log tail; log export;
    log verify; db upgrade; db current; db check; db sql; doctor; bench; config show;
    config init; completion
"""


def commands() -> list[tuple[str, ...]]:
    """Return every command and every verb of a group."""
    found: list[tuple[str, ...]] = [()]
    context = click.Context(orchd)
    for name in orchd.list_commands(context):
        found.append((name,))
        command = orchd.get_command(context, name)
        if isinstance(command, click.Group):
            found += [(name, verb) for verb in command.commands]
    return found


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_help_has_options_and_examples(command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(orchd, [*command, "--help"], prog_name="orchd")
    assert done.exit_code == 0
    assert "Global options:" in done.stdout
    is_group = isinstance(_find(command), click.Group)
    assert ("Commands:" if is_group else "Examples:") in done.stdout


def test_no_help_loads_anything_heavy(cli: CommandLine) -> None:
    """A verb pays for what it does only when it does it."""
    script = f"""
import sys
from orchd_ops.cli.root import orchd
for command in {commands()!r}:
    orchd.main([*command, "--help"], prog_name="orchd", standalone_mode=False)
print("LOADED", *(name for name in {HEAVY!r} if name in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=cli.environ,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "LOADED", done.stderr


def _find(command: tuple[str, ...]) -> click.Command:
    found: click.Command = orchd
    for name in command:
        assert isinstance(found, click.Group)
        below = found.get_command(click.Context(found), name)
        assert below is not None
        found = below
    return found


def test_every_command_of_the_contract_is_there() -> None:
    verbs = {" ".join(command) for command in commands()}
    for command in CONTRACT.split(";"):
        assert command.strip() in verbs


@pytest.mark.parametrize("arguments", [("--version",), ("task", "list", "--version")])
def test_the_version_is_one_line(cli: CommandLine, arguments: tuple[str, ...]) -> None:
    assert cli.ok(*arguments).stdout.startswith("orchd ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nonsense",), "no command is called 'nonsense'"),
        (("submti", "x"), "did you mean submit"),
        (("task", "list", "--bogus"), "No such option"),
        (("task", "list", "--limit", "1001"), "1001 is not in the range"),
        (("submit",), "give the task's TEXT"),
        (("submit", "x", "--payload", "{"), "--payload must be JSON"),
        (("submit", "x", "--in", "soon"), "--in must be a duration"),
        (("submit", "x", "--at", "soon"), "--at must be a time"),
        (("submit", "x", "--metadata", "k"), "--metadata must be K=V"),
        (("submit", "x", "--file", "-"), "either TEXT or --file"),
        (("dlq", "requeue"), "needs IDs or filters"),
        (("dlq", "requeue", "a", "--all"), "needs IDs or filters"),
        (("dlq", "requeue", "--all", "--rate", "fast"), "--rate must be a number"),
        (("replay", "--at", "soonish"), "--at must be a position"),
        (("-o", "yaml", "task", "list"), "'yaml' is not one of"),
        (("--url", "nonsense://x", "task", "list"), "is no address"),
    ],
)
def test_misuse_exits_2_with_one_sentence(
    cli: CommandLine, arguments: tuple[str, ...], said: str
) -> None:
    done = cli.run(*arguments)
    assert (done.code, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_global_options_stand_before_or_after_the_verb(cli: CommandLine) -> None:
    cli.ok("submit", "x", "--executor", "echo")
    before = cli.ok("-o", "json", "task", "list").json
    assert before == cli.ok("task", "-o", "json", "list").json
    assert before == cli.ok("task", "list", "-o", "json").json


@pytest.mark.parametrize(
    "arguments",
    [
        ("task", "list"),
        ("task", "show", "x"),
        ("dlq", "requeue", "--all", "--dry-run"),
        ("log", "tail"),
        ("log", "export"),
        ("replay", "--check"),
        ("db", "current"),
        ("checkpoint", "create"),
    ],
)
def test_reading_where_nothing_is_exits_69_and_makes_nothing(
    cli: CommandLine, arguments: tuple[str, ...]
) -> None:
    done = cli.run(*arguments)
    assert done.code == 69
    assert f"no state at {cli.directory / 'orchd.db'}" in done.stderr
    assert not (cli.directory / "orchd.db").exists()


@pytest.mark.parametrize("arguments", [("task", "list"), ("serve",), ("config", "show")])
def test_a_bad_configuration_exits_78_and_names_key_rule_and_value(
    cli: CommandLine, arguments: tuple[str, ...]
) -> None:
    cli.configure("[worker]\nconcurrency = 0")
    done = cli.run(*arguments)
    assert done.code == 78
    assert "worker.concurrency" in done.stderr
    assert "whole number from 1 to 10000, but it is 0" in done.stderr


def test_nobody_at_an_address_exits_69(cli: CommandLine) -> None:
    done = cli.run("--url", "http://127.0.0.1:9", "task", "list")
    assert (done.code, done.stdout) == (69, "")
    assert "http://127.0.0.1:9" in done.stderr


def test_what_is_no_database_is_refused_without_a_traceback(cli: CommandLine) -> None:
    (cli.directory / "orchd.db").write_text("this is no database, but long enough")
    done = cli.run("task", "list")
    assert done.code == 69
    assert "is not a SQLite database" in done.stderr


def test_a_reader_that_leaves_early_is_no_error(cli: CommandLine) -> None:
    cli.ok("submit", "x", "--executor", "echo")
    command = " ".join((*PROGRAM, "log", "export"))
    done = subprocess.run(
        ["sh", "-c", f"{{ {command}; echo $? > code; }} | true; cat code"],
        capture_output=True,
        text=True,
        env=cli.environ,
        cwd=cli.directory,
        timeout=60,
    )
    assert (done.stdout.strip(), done.stderr) == ("0", "")


def test_text_cannot_drive_the_terminal(cli: CommandLine) -> None:
    cli.ok("submit", "a\x1b[31mb\u202ec\nd", "--executor", "echo")
    assert "\x1b" not in cli.ok("task", "list").stdout
    task_id = cli.ok("task", "list", "-o", "json").json["items"][0]["id"]
    shown = cli.ok("task", "show", task_id).stdout
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_config_init_writes_a_file_that_works_and_overwrites_none(cli: CommandLine) -> None:
    cli.ok("config", "init")
    assert "worker.lease" in cli.ok("config", "show").stdout
    assert cli.run("config", "init").code == 4
    cli.ok("config", "init", "--force")


def test_config_show_has_values_and_origins(cli: CommandLine, tmp_path: Path) -> None:
    cli.environ["ORCHD_WORKER__CONCURRENCY"] = "4"
    shown = cli.ok("config", "show", "-o", "json").json
    by_key = {item["key"]: item for item in shown["items"]}
    assert by_key["worker.concurrency"] == {
        "key": "worker.concurrency",
        "value": 4,
        "origin": "$ORCHD_WORKER__CONCURRENCY",
    }


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(cli: CommandLine, shell: str) -> None:
    assert "_ORCHD_COMPLETE" in cli.ok("completion", shell).stdout


def test_the_bash_script_completes_verbs(cli: CommandLine) -> None:
    environ = {
        "_ORCHD_COMPLETE": "bash_complete",
        "COMP_WORDS": "orchd che",
        "COMP_CWORD": "1",
    }
    done = cli.run(environ=environ)
    assert "checkpoint" in done.stdout
