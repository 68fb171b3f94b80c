"""`orchd replay` as a process: with helpers, interrupted, and beside a daemon."""

from __future__ import annotations

import json
import os
import select
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from orchd.ledger.urls import sqlite_path
from orchd.maintenance.replay import check
from orchd.system import RealSystem
from support.command_line import PROGRAM, CommandLine
from support.tampering import query, tamper
from support.templates import StateTemplates
from support.waiting import wait_until

SYSTEM = RealSystem()
WRONG = (
    ("UPDATE tasks SET priority = 9 WHERE id LIKE ?", "%7"),
    ("UPDATE tasks SET status = 'failed', error_class = 'x' WHERE id LIKE ?", "%000012"),
    ("DELETE FROM tasks WHERE id LIKE ?", "%000100"),
    ("DELETE FROM ready WHERE task_id LIKE ?", "%40"),
    ("UPDATE ready SET ready_at = 5 WHERE task_id LIKE ?", "%60"),
    ("UPDATE counters SET value = value + 7 WHERE name = ?", "events/task.started"),
)


@pytest.fixture
def large(tmp_path: Path, large_url: str) -> Iterator[CommandLine]:
    """Commands on a state with many tasks, once for each kind of database."""
    command_line = CommandLine(tmp_path, large_url)
    yield command_line
    command_line.close()


def database(command_line: CommandLine) -> str:
    return command_line.environ["ORCHD_DATABASE"]


def make_wrong(url: str) -> None:
    for statement, parameter in WRONG:
        tamper(url, statement, (parameter,))


def listed(output: str) -> set[tuple[str, str, str]]:
    lines = [json.loads(line) for line in output.splitlines()]
    return {(line["table"], line["row"], line["column"]) for line in lines}


def test_a_task_that_nobody_knows_is_said_to_be_unknown(cli: CommandLine) -> None:
    cli.ok("submit", "x", "--id", "a", "--executor", "echo")
    cli.ok("replay", "--check", "--task", "a")
    for verb in (("replay", "--check"), ("replay",)):
        done = cli.run(*verb, "--task", "nosuch")
        assert (done.code, done.stdout) == (3, "")
        assert "there was no task nosuch" in done.stderr


def test_helpers_see_what_one_process_sees_and_it_is_mended(large: CommandLine) -> None:
    make_wrong(database(large))
    alone = large.run("replay", "--check", "--jobs", "1", "-o", "jsonl")
    helped = large.run("replay", "--check", "--jobs", "3", "-o", "jsonl")
    assert alone.code == helped.code == 1
    assert listed(alone.stdout) == listed(helped.stdout)
    assert len(listed(alone.stdout)) == len(alone.stdout.splitlines()) > 700
    mended = large.ok("replay", "--jobs", "3", "-o", "jsonl")
    assert listed(mended.stdout) == listed(alone.stdout)
    assert large.ok("replay", "--check", "--jobs", "2").stderr == "no differences\n"


@pytest.fixture
def half_wrong(tmp_path: Path, large_states: StateTemplates) -> Iterator[CommandLine]:
    """A SQLite state whose later tasks are all wrong."""
    with large_states.copy("sqlite", tmp_path) as url:
        # Much more than fits into a pipe.
        middle = "(SELECT id FROM tasks ORDER BY id LIMIT 1 OFFSET 4000)"
        tamper(url, f"UPDATE tasks SET priority = 9 WHERE id > {middle}")
        yield CommandLine(tmp_path, url)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_check_goes_on_and_misses_nothing(
    half_wrong: CommandLine, number: int
) -> None:
    url = database(half_wrong)
    checking = subprocess.Popen(
        (*PROGRAM, "replay", "--check", "--jobs", "2", "-o", "jsonl"),
        stdout=subprocess.PIPE,
        cwd=half_wrong.directory,
        env=half_wrong.environ,
    )
    _read_until(checking, Path(f"{sqlite_path(url)}.replay").exists)
    # It stands still in the middle, because nobody reads on what it says.
    helpers = psutil.Process(checking.pid).children()
    assert len(helpers) == 2
    checking.send_signal(number)
    checking.communicate(timeout=60)
    assert checking.returncode == (-9 if number == signal.SIGKILL else 130)
    _, alive = psutil.wait_procs(helpers, timeout=10)
    assert not alive
    _expect_the_rest(half_wrong, url)


def _read_until(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    # What differs may come first, and fill the pipe before anything is noted as done.
    assert process.stdout is not None
    output = process.stdout.fileno()

    def is_met() -> bool:
        if condition():
            return True
        if select.select([output], [], [], 0.01)[0]:
            os.read(output, 4096)
        return False

    wait_until(is_met)


def _expect_the_rest(half_wrong: CommandLine, url: str) -> None:
    again = half_wrong.run("replay", "--check", "-o", "jsonl")
    assert "going on with the replay that began at" in again.stderr
    assert again.code == 1
    [(wrong,)] = query(url, "SELECT count(*) FROM tasks WHERE priority = 9")
    assert len(listed(again.stdout)) == wrong
    fresh = half_wrong.run("replay", "--check", "-o", "jsonl", "--restart")
    assert "going on" not in fresh.stderr
    assert listed(fresh.stdout) == listed(again.stdout)


# --- beside a daemon on SQLite --------------------------------------------------------


def _behind_its_back(cli: CommandLine, statement: str) -> None:
    # The row's triggers do not matter here, and another SQLite must not write.
    connection = sqlite3.connect(sqlite_path(database(cli)), timeout=10)
    with connection:
        connection.execute(statement)
    connection.close()


def test_a_state_in_use_is_mended_by_its_daemon(cli: CommandLine) -> None:
    cli.serve()
    cli.ok("submit", "a", "--executor", "echo", "--id", "x", "--wait")
    _behind_its_back(cli, "UPDATE tasks SET priority = 9, error = 'forged'")
    _behind_its_back(cli, "UPDATE counters SET value = 5 WHERE name LIKE 'events/%'")
    assert cli.run("replay", "--check").code == 1
    mended = cli.ok("replay")
    assert "priority is 9, the log says 0" in mended.stdout
    assert "mended" in mended.stderr
    assert list(check(database(cli), system=SYSTEM)) == []
    cli.ok("submit", "b", "--executor", "echo", "--id", "y", "--wait")
    cli.ok("replay", "--check")


def test_a_daemon_that_cannot_be_reached_is_named(cli: CommandLine) -> None:
    daemon = cli.serve()
    cli.ok("submit", "a", "--executor", "echo", "--id", "x", "--wait")
    _behind_its_back(cli, "UPDATE tasks SET priority = 9")
    elsewhere = cli.directory / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    done = cli.run("replay", environ={"XDG_RUNTIME_DIR": str(elsewhere)})
    assert done.code == 75
    assert f"process {daemon.process.pid}" in done.stderr
    assert cli.run("replay", "--check").code == 1
