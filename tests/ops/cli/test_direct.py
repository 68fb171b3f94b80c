"""Commands on a state that no daemon has open, on both databases."""

import fcntl
import json
import os
import pty
import signal
import socket
import stat
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchd.client import Client
from orchd.config import places
from support.command_line import PROGRAM, CommandLine


@pytest.fixture
def either(tmp_path: Path, database_url: str) -> Iterator[CommandLine]:
    """Commands on an empty state, once for each kind of database."""
    command_line = CommandLine(tmp_path, database_url)
    yield command_line
    command_line.close()


def test_submit_list_show_and_cancel(either: CommandLine) -> None:
    task_id = either.ok("submit", "hello", "--executor", "echo").stdout.strip()
    listed = either.ok("task", "list", "-o", "json").json
    assert [item["id"] for item in listed["items"]] == [task_id]
    assert listed["next_cursor"] is None
    assert either.ok("task", "show", task_id, "-o", "json").json["description"] == "hello"
    either.ok("task", "cancel", task_id, "--reason", "enough")
    assert either.ok("task", "show", task_id, "-o", "json").json["status"] == "cancelled"
    types = [
        item["type"]
        for item in either.ok("task", "events", task_id, "-o", "json").json["items"]
    ]
    assert types == ["task.submitted", "task.cancelled"]
    assert either.run("task", "wait", task_id).code == 1
    assert either.run("task", "show", "nobody").code == 3


def test_a_submission_with_an_id_is_idempotent_and_another_one_conflicts(
    either: CommandLine,
) -> None:
    first = either.ok("submit", "a", "--executor", "echo", "--id", "x").stdout
    assert either.ok("submit", "a", "--executor", "echo", "--id", "x").stdout == first
    assert either.run("submit", "b", "--executor", "echo", "--id", "x").code == 4


def test_a_task_of_the_command_line_is_the_one_that_the_library_sent(
    cli: CommandLine,
) -> None:
    cli.serve()
    path = places.socket_path(cli.environ["ORCHD_DATABASE"], cli.environ)
    with Client(path) as client:
        client.submit("a", id="x", executor="echo")
    assert cli.ok("submit", "a", "--id", "x", "--executor", "echo").stdout.strip() == "x"


def test_dead_letters_are_requeued_no_faster_than_asked(cli: CommandLine) -> None:
    for name in ("a", "b"):
        failing = ("--payload", '{"success": false}', "--max-attempts", "1")
        cli.ok("submit", name, "--id", name, "--executor", "fake", *failing)
    cli.ok("serve", "--until-idle", "--listen", "127.0.0.1:0")
    cli.ok("dlq", "requeue", "--all", "--rate", "2/s")
    events = cli.ok("log", "export", "-o", "jsonl").stdout.splitlines()
    rows = [json.loads(line) for line in events]
    first, second = (row for row in rows if row["type"] == "task.requeued")
    assert second["meta"]["at"] - first["meta"]["at"] >= 400_000  # microseconds


@pytest.mark.parametrize("verb", [("dlq", "discard"), ("dlq", "list"), ("task", "list")])
def test_an_empty_filter_is_refused_and_does_not_hold_for_all(
    cli: CommandLine, verb: tuple[str, ...]
) -> None:
    done = cli.run(*verb, "--executor", "fake", "--queue", "")
    assert done.code == 2
    assert "'--queue': must not be empty" in done.stderr


def test_queues_are_paused_with_their_reason(either: CommandLine) -> None:
    either.ok("queue", "pause", "q", "--reason", "quota")
    item = either.ok("queue", "list", "-o", "jsonl")
    assert json.loads(item.stdout)["reason"] == "quota"
    either.ok("queue", "resume", "q")
    assert not json.loads(either.ok("queue", "list", "-o", "jsonl").stdout)["paused"]


def test_the_log_is_exported_verified_and_replayed(either: CommandLine) -> None:
    either.ok("submit", "a", "--executor", "echo", "--id", "x")
    (line,) = either.ok("log", "export").stdout.splitlines()
    event = json.loads(line)
    assert (event["position"], event["type"]) == (1, "task.submitted")
    assert isinstance(event["data"], dict)
    assert isinstance(event["meta"], dict)
    either.ok("log", "verify")
    either.ok("replay", "--check")
    assert "x" in either.ok("replay", "--at", "1").stdout


def test_an_unknown_executor_is_refused_with_the_names(either: CommandLine) -> None:
    done = either.run("submit", "a", "--executor", "nope")
    assert done.code == 2
    assert "known are echo, fake" in done.stderr


def test_pages_go_on_at_their_cursor(cli: CommandLine) -> None:
    for name in "abc":
        cli.ok("submit", name, "--executor", "echo", "--id", name)
    first = cli.ok("task", "list", "--limit", "2", "-o", "json").json
    rest = cli.ok("task", "list", "--cursor", first["next_cursor"], "-o", "json").json
    assert [i["id"] for i in first["items"] + rest["items"]] == ["c", "b", "a"]


def test_files_belong_to_their_user_alone_whatever_the_mask(cli: CommandLine) -> None:
    before = os.umask(0)
    try:
        cli.environ["ORCHD_DATABASE"] = f"sqlite:///{cli.directory}/deep/state/orchd.db"
        cli.ok("submit", "a", "--executor", "echo")
    finally:
        os.umask(before)
    directory = cli.directory / "deep/state"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for file in directory.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_a_stale_or_taken_socket_is_no_error(cli: CommandLine) -> None:
    path = places.socket_path(cli.environ["ORCHD_DATABASE"], cli.environ)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    cli.ok("submit", "a", "--executor", "echo")
    path.unlink()
    path.write_text("not a socket")
    cli.ok("task", "list")


def test_a_file_is_submitted_once_however_often_the_command_runs(cli: CommandLine) -> None:
    file = cli.directory / "tasks.jsonl"
    lines = [json.dumps({"description": f"task {n}"}) for n in range(1200)]
    file.write_text("\n".join(lines) + "\n\n")
    command = ("submit", "--file", str(file), "--executor", "echo")
    first = cli.ok(*command)
    assert first.stdout == "submitted 1200, there before 0, refused 0\n"
    assert cli.ok(*command).stdout == "submitted 0, there before 1200, refused 0\n"
    ids = [
        json.loads(line)["id"]
        for line in cli.ok(*command, "-o", "jsonl").stdout.splitlines()
    ]
    assert len(set(ids)) == 1200


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "JSON"),
        ("[1]", "must be a JSON object"),
        ('{"description": "x", "colour": 1}', "colour"),
        ('{"description": "x", "executor": "nope"}', "nope"),
        ('{"description": "x", "priority": "high"}', "priority"),
        ('{"id": "a", "description": "other"}', "another task in line 1"),
        ('{"description": "\\u0000"}', "NUL"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_submitted(
    cli: CommandLine, line: str, said: str
) -> None:
    cli.ok("queue", "pause", "q")
    good = '{"id": "a", "description": "x"}\n'
    done = cli.run("submit", "--file", "-", "--executor", "echo", stdin=f"{good}\n{line}\n")
    assert done.code == 2
    assert "line 3" in done.stderr
    assert said in done.stderr
    assert "nothing was submitted" in done.stderr
    assert cli.ok("task", "list", "-o", "json").json["items"] == []


def test_conflicts_within_a_file_are_named_and_exit_4(cli: CommandLine) -> None:
    cli.ok("submit", "first", "--executor", "echo", "--id", "a")
    text = '{"id": "a", "description": "second"}\n{"id": "b", "description": "x"}\n'
    done = cli.run("submit", "--file", "-", "--executor", "echo", stdin=text)
    assert done.code == 4
    assert done.stdout == "submitted 1, there before 0, refused 1\n"
    assert "line 1" in done.stderr


def test_all_the_fields_of_a_submission_arrive(cli: CommandLine) -> None:
    task = cli.ok(
        *("submit", "text", "--executor", "echo", "--verifier", "always-pass"),
        *("--queue", "q", "--priority", "0", "--at", "2099-01-01T00:00:00Z"),
        *("--max-attempts", "7", "--timeout", "5m", "--payload", '{"a": [1]}'),
        *("--metadata", "k=v=w", "--idempotency-key", "key", "-o", "json"),
    ).json
    assert task["verifiers"] == ["always-pass"]
    assert (task["queue"], task["priority"], task["max_attempts"]) == ("q", 0, 7)
    assert task["run_at"] == "2099-01-01T00:00:00Z"
    assert (task["payload"], task["metadata"]) == ({"a": [1]}, {"k": "v=w"})


def test_a_followed_log_shows_each_event_until_ctrl_c(either: CommandLine) -> None:
    either.ok("submit", "a", "--executor", "echo", "--id", "first")
    tail = either.start("log", "tail", "-f")
    tail.wait_for("task-first", tail.stdout)
    either.ok("submit", "b", "--executor", "echo", "--id", "second")
    tail.wait_for("task-second", tail.stdout)
    tail.signal(signal.SIGINT)
    assert tail.wait() == 130
    assert "".join(tail.stderr).strip() == ""


def test_a_terminal_gets_a_drawn_table_and_no_colour_when_asked(cli: CommandLine) -> None:
    cli.ok("submit", "[red]a[/red]", "--executor", "echo")
    plain = on_terminal(cli, "task", "list", "--no-color")
    assert "─" in plain
    assert "[red]a[/red]" in plain
    assert "\x1b[3" not in plain
    assert "\x1b[3" not in on_terminal(cli, "task", "list", NO_COLOR="1")


def on_terminal(cli: CommandLine, *arguments: str, **environ: str) -> str:
    """Return what a command writes to a terminal of 200 columns."""
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 50, 200, 0, 0))
    done = subprocess.run(
        (*PROGRAM, *arguments),
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.PIPE,
        env={**cli.environ, "TERM": "xterm-256color", **environ},
        cwd=cli.directory,
        timeout=60,
    )
    os.close(terminal)
    written = os.read(master, 65536).decode()
    os.close(master)
    assert done.returncode == 0, done.stderr
    return written
