"""`orchd doctor` as its users see it: what it prints, how it ends, what it mends."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchd.ledger.urls import sqlite_path
from support.command_line import CommandLine
from support.tampering import tamper
from support.templates import StateTemplates


@pytest.fixture
def state(tmp_path: Path, state_url: str) -> Iterator[CommandLine]:
    command_line = CommandLine(tmp_path, state_url)
    yield command_line
    command_line.close()


def url_of(cli: CommandLine) -> str:
    return cli.environ["ORCHD_DATABASE"]


def test_a_sound_state_is_told_check_by_check(state: CommandLine) -> None:
    done = state.run("doctor")
    lines = done.stdout.splitlines()
    assert {line.split()[0] for line in lines if line[0] != " "} <= {"ok", "FAIL"}
    checks = {line.split()[1] for line in lines if line.startswith("ok ")}
    assert {"log", "streams", "projections", "runs", "bodies", "workers"} <= checks
    if url_of(state).startswith("sqlite"):
        assert (done.code, done.stderr) == (0, "everything is in order\n")
    else:
        # The server of the tests does not wait for its disk: what comes after in the same
        # check must not hide it.
        assert (done.code, done.stderr) == (1, "2 failures\n")


def test_a_failure_ends_with_1_and_is_mended_on_demand(state: CommandLine) -> None:
    tamper(url_of(state), "UPDATE tasks SET priority = 9 WHERE id = 'plain'")
    found = state.run("doctor", "-o", "json")
    assert found.code == 1
    wrong = [item for item in found.json["items"] if item["check"] == "projections"]
    assert [item["level"] for item in wrong] == ["fail"]
    assert "priority is 9, the log says 0" in wrong[0]["detail"]
    assert wrong[0]["hint"]
    mended = [
        json.loads(line)
        for line in state.run("doctor", "--repair", "-o", "jsonl").stdout.splitlines()
    ]
    levels = [item["level"] for item in mended if item["check"] == "projections"]
    assert levels == ["mended", "ok"]


def test_a_warning_is_no_failure(tmp_path: Path, histories: StateTemplates) -> None:
    with histories.copy("sqlite", tmp_path) as url:
        cli = CommandLine(tmp_path, url)
        (tmp_path / "orchd.sqlite.checkpoints").mkdir()
        part = tmp_path / "orchd.sqlite.checkpoints" / "x.orchd.999999999.part"
        part.touch()
        done = cli.run("doctor")
        assert (done.code, done.stderr) == (0, "1 warning\n")
        assert "warn    files" in done.stdout
        assert str(part) in done.stdout
        cli.ok("doctor", "--repair")
        assert not part.exists()


def test_a_repair_beside_a_daemon_goes_through_it(cli: CommandLine) -> None:
    cli.serve()
    cli.ok("submit", "a", "--executor", "echo", "--id", "x", "--wait")
    connection = sqlite3.connect(sqlite_path(url_of(cli)), timeout=10)
    with connection:
        connection.execute("UPDATE tasks SET priority = 9")
    connection.close()
    assert cli.run("doctor").code == 1
    done = cli.ok("doctor", "--repair")
    assert "mended  projections" in done.stdout
    assert "a daemon answers at" in done.stdout
    assert done.stderr == "everything is in order\n"


def test_a_bad_configuration_is_a_failure_and_the_rest_is_looked_at(
    cli: CommandLine,
) -> None:
    cli.configure("[worker]\nconcurrency = -1\n")
    done = cli.run("doctor")
    assert done.code == 1
    assert done.stdout.startswith("FAIL    configuration")
