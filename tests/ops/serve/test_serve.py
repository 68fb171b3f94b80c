"""The daemon as a process: start, work, signals, and its end."""

import json
import signal
import stat
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from orchd.config import places
from orchd_migrations.upgrading import UPGRADE_LOCK
from support.command_line import CommandLine, DaemonProcess

COMMANDS = """
[worker]
drain_timeout = "20s"
kill_grace = "1s"
[retry]
backoff = { initial = "50ms" }
[executors.count]
type = "command"
argv = ["wc", "-w"]
[executors.stubborn]
type = "command"
argv = ["sh", "-c", "trap '' TERM; touch started; while :; do sleep 1; done"]
cwd = "."
[executors.patient]
type = "command"
argv = ["sh", "-c", "touch started; while [ ! -e go ]; do sleep 0.02; done; echo done"]
cwd = "."
[executors.broken]
type = "command"
argv = ["false"]
"""


@pytest.fixture
def either(tmp_path: Path, database_url: str) -> Iterator[CommandLine]:
    """Commands on an empty state, once for each kind of database."""
    command_line = CommandLine(tmp_path, database_url)
    yield command_line
    command_line.close()


def wait_for_file(path: Path) -> None:
    """Wait until a task has made its file."""
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def start_task(cli: CommandLine, executor: str) -> str:
    """Submit a task and return its id when its command runs."""
    task_id = cli.ok("submit", "x", "--executor", executor).stdout.strip()
    wait_for_file(cli.directory / "started")
    return task_id


def status_of(cli: CommandLine, task_id: str) -> dict[str, object]:
    """Return a task."""
    task: dict[str, object] = cli.ok("task", "show", task_id, "-o", "json").json
    return task


def event_types(cli: CommandLine) -> list[str]:
    """Return the types of all events in the log."""
    lines = cli.ok("log", "export").stdout.splitlines()
    return [json.loads(line)["type"] for line in lines]


def test_a_task_is_executed_and_waited_for_through_the_socket(either: CommandLine) -> None:
    either.configure(COMMANDS)
    daemon = either.serve()
    done = either.run("submit", "one two three", "--executor", "count", "--wait")
    assert done.code == 0, (done, daemon.stderr)
    task = status_of(either, done.stdout.strip())
    assert (task["status"], task["result"]) == ("completed", "3\n")
    assert either.run("submit", "x", "--executor", "broken", "--wait").code == 1
    (dead,) = either.ok("dlq", "list", "-o", "json").json["items"]
    assert dead["executor"] == "broken"
    either.ok("dlq", "requeue", dead["id"], "--reason", "again")
    assert either.run("task", "wait", dead["id"]).code == 1
    either.ok("dlq", "discard", dead["id"])
    assert daemon.stop() == 0
    types = event_types(either)
    assert types[0] == "daemon.started"
    assert types[-1] == "daemon.stopped"


def test_the_first_line_on_stdout_says_where_it_listens(cli: CommandLine) -> None:
    daemon = cli.serve()
    assert daemon.stdout == [f"listening on {daemon.url}\n"]
    with urllib.request.urlopen(f"{daemon.url}/livez") as answer:
        assert answer.status == 200
    with urllib.request.urlopen(f"{daemon.url}/metrics") as answer:
        assert b"orchd_worker_slots" in answer.read()


def test_the_token_beside_the_state_opens_the_tcp_door(cli: CommandLine) -> None:
    daemon = cli.serve()
    token = cli.directory / "orchd.db.token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    cli.ok("--url", daemon.url, "task", "list")
    token.rename(cli.directory / "elsewhere")
    done = cli.run("--url", daemon.url, "task", "list")
    assert done.code == 78
    assert "token" in done.stderr


def test_a_second_daemon_exits_75_at_once_and_names_the_owner(cli: CommandLine) -> None:
    daemon = cli.serve()
    done = cli.run("serve", "--listen", "127.0.0.1:0")
    assert done.code == 75
    assert str(daemon.process.pid) in done.stderr


def test_a_taken_port_exits_75_and_says_what_to_do(cli: CommandLine) -> None:
    daemon = cli.serve()
    other = {"ORCHD_DATABASE": f"sqlite:///{cli.directory}/other.db"}
    address = daemon.url.removeprefix("http://")
    done = cli.run("serve", "--listen", address, environ=other)
    assert done.code == 75
    assert "--listen" in done.stderr


def test_anything_but_loopback_needs_a_token_of_its_own(cli: CommandLine) -> None:
    done = cli.run("serve", "--listen", "0.0.0.0:0")
    assert done.code == 78
    assert "server.token_file" in done.stderr
    assert not (cli.directory / "orchd.db").exists()
    token = cli.directory / "token"
    token.touch(mode=0o600)
    token.write_text("a-token-that-somebody-chose\n")
    cli.environ["ORCHD_SERVER__TOKEN_FILE"] = str(token)
    daemon = cli.start("serve", "--listen", "0.0.0.0:0")
    daemon.wait_until_listening()
    assert daemon.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_tasks_end_and_starts_no_others(
    cli: CommandLine, number: int
) -> None:
    cli.configure(COMMANDS)
    daemon = cli.serve("--concurrency", "1")
    running = start_task(cli, "patient")
    waiting = cli.ok("submit", "x", "--executor", "count").stdout.strip()
    daemon.signal(number)
    daemon.wait_for("draining")
    (cli.directory / "go").touch()
    assert daemon.wait() == 0
    assert status_of(cli, running)["status"] == "completed"
    assert status_of(cli, waiting)["status"] == "pending"
    assert "daemon.draining" in event_types(cli)


def test_what_does_not_end_in_time_is_killed_and_returned_uncharged(
    cli: CommandLine,
) -> None:
    cli.configure(COMMANDS)
    daemon = cli.serve("--drain-timeout", "200ms")
    task_id = start_task(cli, "stubborn")
    before = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - before < 0.2 + 1 + 1 + 1  # a busy machine gets a second
    task = status_of(cli, task_id)
    assert (task["status"], task["attempts"], task["runs"]) == ("pending", 0, 1)


def test_a_second_signal_stops_at_once(cli: CommandLine) -> None:
    cli.configure(COMMANDS.replace('kill_grace = "1s"', 'kill_grace = "60s"'))
    daemon = cli.serve()
    task_id = start_task(cli, "stubborn")
    daemon.signal(signal.SIGTERM)
    daemon.wait_for("draining")
    time.sleep(0.1)  # what follows the first signal at once is taken for its echo
    before = time.monotonic()
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    assert time.monotonic() - before < 5
    assert status_of(cli, task_id)["status"] == "pending"


def test_a_killed_daemon_s_tasks_are_taken_over_by_the_next(cli: CommandLine) -> None:
    cli.configure(COMMANDS)
    daemon = cli.serve()
    task_id = start_task(cli, "patient")
    daemon.kill()
    (cli.directory / "go").touch()
    cli.serve()
    assert cli.run("task", "wait", task_id).code == 0
    assert status_of(cli, task_id)["crashes"] == 1


def test_until_idle_ends_with_totals_also_with_dead_letters(cli: CommandLine) -> None:
    cli.configure(COMMANDS)
    cli.ok("submit", "a b", "--executor", "count")
    cli.ok("submit", "later", "--executor", "echo", "--in", "500ms")
    cli.ok("submit", "x", "--executor", "broken", "--max-attempts", "2")
    cli.ok("queue", "pause", "closed")
    cli.ok("submit", "x", "--executor", "echo", "--queue", "closed")
    done = cli.ok("serve", "--until-idle", "--listen", "127.0.0.1:0")
    last = done.stdout.splitlines()[-1]
    assert last == "idle: completed 2, failed 1, cancelled 0, retried 1, released 0"


def test_a_reload_brings_new_executors_and_a_bad_one_changes_nothing(
    cli: CommandLine,
) -> None:
    cli.configure("[worker]\nconcurrency = 2")
    daemon = cli.serve()
    assert cli.run("submit", "a b", "--executor", "count", "--wait").code == 2
    cli.configure(COMMANDS)
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("was read anew")
    assert cli.run("submit", "a b", "--executor", "count", "--wait").code == 0
    cli.configure("[worker]\nconcurrency = 0")
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("stays as it was")
    (cli.directory / "orchd.toml").unlink()
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("is gone")
    cli.configure(COMMANDS)
    assert cli.run("submit", "a b", "--executor", "count", "--wait").code == 0


def test_a_local_socket_that_was_removed_is_made_anew(cli: CommandLine) -> None:
    daemon = cli.serve()
    path = places.socket_path(cli.environ["ORCHD_DATABASE"], cli.environ)
    path.unlink()
    daemon.wait_for("was removed; made anew")
    wait_for_file(path)
    cli.ok("submit", "x", "--executor", "echo", "--wait")
    assert daemon.stop() == 0
    assert not path.exists()


def test_a_reload_names_what_takes_a_restart_until_it_had_one(cli: CommandLine) -> None:
    cli.configure('[worker]\nlease = "10s"')
    daemon = cli.serve()
    cli.configure('[worker]\nlease = "11s"')
    for _ in range(2):
        daemon.stderr.clear()
        daemon.signal(signal.SIGHUP)
        daemon.wait_for("was read anew")
        daemon.wait_for("worker.lease .* takes a restart")
    cli.configure('[worker]\nlease = "10s"')
    daemon.stderr.clear()
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("was read anew")
    assert "takes a restart" not in "".join(daemon.stderr)


def test_a_signal_while_it_starts_ends_it_in_order(cli: CommandLine) -> None:
    daemon: DaemonProcess = cli.start("serve", "--listen", "127.0.0.1:0")
    # The first of the files is made while the state is being opened.
    wait_for_file(cli.directory / "orchd.db.lock")
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    # Whatever it was doing is done, or done by the next.
    assert cli.serve().stop() == 0
    cli.ok("replay", "--check")
    cli.ok("log", "verify")


def test_a_signal_during_a_migration_does_not_wait_for_it(
    tmp_path: Path, postgres_url: str
) -> None:
    cli = CommandLine(tmp_path, postgres_url)
    try:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f"SELECT pg_advisory_lock({UPGRADE_LOCK})".encode())
            daemon = cli.start("serve", "--listen", "127.0.0.1:0")
            waiting = b"SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while not connection.execute(waiting).fetchone():
                time.sleep(0.01)
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 0
        assert cli.serve().stop() == 0
    finally:
        cli.close()


def test_a_bad_executor_keeps_it_from_starting(cli: CommandLine) -> None:
    cli.configure('[executors.x]\ntype = "http"\nurl = "http://127.0.0.1:1"\n')
    done = cli.run("serve", "--listen", "127.0.0.1:0")
    assert done.code == 78
    assert "executors.x.type" in done.stderr


def test_a_wait_without_a_daemon_lets_one_start_and_finds_it(cli: CommandLine) -> None:
    waiting = cli.start("submit", "x", "--executor", "echo", "--wait")
    waiting.wait_for("no daemon answers here")
    cli.serve()
    assert waiting.wait() == 0


def test_the_socket_is_gone_after_the_end(cli: CommandLine) -> None:
    daemon = cli.serve()
    assert list(cli.runtime.glob("orchd-*.sock"))
    assert daemon.stop() == 0
    assert not list(cli.runtime.iterdir())


def test_two_daemons_share_one_postgresql_and_one_socket(
    tmp_path: Path, postgres_url: str
) -> None:
    cli = CommandLine(tmp_path, postgres_url)
    try:
        first, second = cli.serve(), cli.serve()
        second.wait_for("another daemon of this database has the local socket")
        cli.ok("submit", "x", "--executor", "echo", "--wait")
        assert second.stop() == 0
        assert list(cli.runtime.glob("orchd-*.sock"))
        cli.ok("submit", "y", "--executor", "echo", "--wait")
        assert first.stop() == 0
    finally:
        cli.close()


def test_a_database_that_is_not_there_exits_69(cli: CommandLine) -> None:
    cli.environ["ORCHD_DATABASE"] = "postgresql://me:geheim@127.0.0.1:1/x"
    for arguments in (("task", "list"), ("serve", "--listen", "127.0.0.1:0")):
        done = cli.run(*arguments)
        assert done.code == 69
        assert "127.0.0.1" in done.stderr
        assert "geheim" not in done.stderr
