"""What somebody changed by hand is named by the command line, and mended by it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.command_line import CommandLine
from support.histories import make_history
from support.tampering import tamper

CHANGES = (
    ("tasks", "id", "retried", "priority", 99),
    ("tasks", "id", "retried", "description", "forged"),
    ("tasks", "id", "retried", "attempts", 77),
    ("queues", "name", "default", "reason", "forged"),
    ("queues", "name", "default", "changed_at", 1),
    ("breakers", "name", "other", "failures", 77),
    ("breakers", "name", "other", "error", "forged"),
)


@pytest.fixture
def state(tmp_path: Path, database_url: str) -> Iterator[CommandLine]:
    """Commands on a state with a history, once for each kind of database."""
    asyncio.run(make_history(database_url))
    command_line = CommandLine(tmp_path, database_url)
    yield command_line
    command_line.close()


def _tamper(state: CommandLine, statement: str, *parameters: object) -> None:
    tamper(state.environ["ORCHD_DATABASE"], statement, parameters)


def test_replay_names_each_changed_row_and_column_and_mends_them(
    state: CommandLine,
) -> None:
    for table, key, row, column, value in CHANGES:
        _tamper(state, f"UPDATE {table} SET {column} = ? WHERE {key} = ?", value, row)
    checked = state.run("replay", "--check", "-o", "json")
    assert checked.code == 1, checked
    named = {(d["table"], d["row"], d["column"]) for d in checked.json["items"]}
    assert named == {(table, row, column) for table, _, row, column, _ in CHANGES}
    state.ok("replay")
    state.ok("replay", "--check")


def test_log_verify_names_the_commit_of_a_changed_event(state: CommandLine) -> None:
    state.ok("log", "verify")
    _tamper(state, "UPDATE events SET type = 'task.forged' WHERE position = 2")
    verified = state.run("log", "verify")
    assert verified.code == 1, verified
    assert "commit " in verified.stdout + verified.stderr, verified


@pytest.mark.parametrize(
    "verb",
    [
        ("task", "list"),
        ("log", "verify"),
        ("replay", "--check"),
        ("doctor",),
        ("submit", "x", "--executor", "echo"),
        ("serve", "--until-idle", "--listen", "127.0.0.1:0"),
    ],
)
def test_a_log_that_lost_its_end_is_no_fault_of_the_program(
    state: CommandLine, verb: tuple[str, ...]
) -> None:
    _tamper(state, "DELETE FROM log_head")
    done = state.run(*verb)
    assert done.code != 0
    said = done.stdout + done.stderr
    assert "the row of log_head, which says where the log ends, is missing" in said
    assert "fault of orchd" not in said
