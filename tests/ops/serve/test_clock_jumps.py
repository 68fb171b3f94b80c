"""The wall clock of a daemon at work jumps by a day: nothing breaks, no limit moves."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from support.command_line import CommandLine
from support.wall_clock import WallClock

DAY_SECONDS = 86_400
LIMIT_SECONDS = 4
UPTIME_STEP_SECONDS = 0.01
LATE_SECONDS_MAX = 1.0
CONFIGURATION = '''
[worker]
kill_grace = "200ms"
lease = "4s"
[retry]
backoff = { initial = "50ms" }
[executors.count]
type = "command"
argv = ["wc", "-w"]
[executors.second]
type = "command"
argv = ["sh", "-c", "[ $ORCHD_ATTEMPT = 2 ]"]
[executors.patient]
type = "command"
argv = ["sh", "-c", "touch started; while [ ! -e go ]; do sleep 0.02; done"]
cwd = "."
[executors.limited]
type = "command"
argv = ["sh", "-c", """
note() { cut -d' ' -f1 /proc/uptime >> limited; }
trap 'note; exit 1' TERM
note
sleep 1000 &
wait
"""]
cwd = "."
'''


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path)


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    command_line = CommandLine(tmp_path, f"sqlite:///{tmp_path / 'orchd.db'}")
    command_line.configure(CONFIGURATION)
    yield command_line
    command_line.close()


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def uptime_seconds() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


def submit(cli: CommandLine, executor: str, *options: str) -> str:
    return cli.ok("submit", "a b", "--executor", executor, *options).stdout.strip()


def show(cli: CommandLine, task_id: str) -> dict[str, Any]:
    task: dict[str, Any] = cli.ok("task", "show", task_id, "-o", "json").json
    return task


def finish(cli: CommandLine, *task_ids: str) -> list[str]:
    """Wait until tasks are terminal and return their statuses."""
    cli.run("task", "wait", *task_ids, "--timeout", "30s")
    return [show(cli, task_id)["status"] for task_id in task_ids]


def in_a_day(seconds: float) -> str:
    moment = datetime.now(UTC) + timedelta(seconds=DAY_SECONDS + seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize("days", [1, -1])
def test_work_goes_on_after_the_clock_has_jumped(
    cli: CommandLine, clock: WallClock, days: int
) -> None:
    daemon = cli.serve(environ=clock.environ)
    patient = submit(cli, "patient")
    tomorrow = submit(cli, "count", "--at", in_a_day(0.0))
    delayed = submit(cli, "count", "--in", "3h")
    until((cli.directory / "started").exists)
    clock.turn(days * DAY_SECONDS)
    daemon.wait_for("clock jumped by")
    # What comes now, comes by the new clock, and spans of time are as long as ever.
    assert finish(cli, submit(cli, "count"), submit(cli, "second")) == ["completed"] * 2
    before = time.monotonic()
    soon = submit(cli, "count", "--in", "1s")
    assert finish(cli, soon) == ["completed"], (show(cli, soon), daemon.stderr)
    assert 1 <= time.monotonic() - before < 10
    # What is to start at an instant of that clock does, once it is there.
    statuses = [show(cli, each)["status"] for each in (tomorrow, delayed)]
    assert statuses == (["completed"] * 2 if days > 0 else ["pending"] * 2)
    clock.turn(2 * DAY_SECONDS)
    assert finish(cli, tomorrow, delayed) == ["completed"] * 2
    (cli.directory / "go").touch()
    assert finish(cli, patient) == ["completed"]
    task = show(cli, patient)
    assert (task["runs"], task["crashes"]) == (1, 0)
    assert daemon.stop() == 0
    check_log(cli)


def check_log(cli: CommandLine) -> None:
    """Check that the log and the rows are in order, and the log's times too."""
    cli.ok("replay", "--check")
    cli.ok("log", "verify")
    events = [json.loads(line) for line in cli.ok("log", "export").stdout.splitlines()]
    times = [event["recorded_at"] for event in events]
    assert times == sorted(times)
    assert [event["type"] for event in events].count("daemon.started") == 1


@pytest.mark.parametrize("days", [1, -1])
def test_a_time_limit_is_as_long_as_ever(
    cli: CommandLine, clock: WallClock, days: int
) -> None:
    cli.serve(environ=clock.environ)
    limit = ("--timeout", f"{LIMIT_SECONDS}s", "--max-attempts", "1")
    submitted = uptime_seconds()
    limited = submit(cli, "limited", *limit)
    until((cli.directory / "limited").exists)
    clock.turn(days * DAY_SECONDS)
    assert finish(cli, limited) == ["failed"]
    # The run itself notes when it began and when it was told to end, by a clock that nobody
    # turns. Its time counts from before its program is there.
    began, ended = map(float, (cli.directory / "limited").read_text().split())
    assert ended - submitted > LIMIT_SECONDS - UPTIME_STEP_SECONDS
    assert ended - began < LIMIT_SECONDS + LATE_SECONDS_MAX
    assert show(cli, limited)["error_class"] == "timeout"


def test_a_daemon_that_starts_with_a_clock_turned_back_takes_up_its_work(
    cli: CommandLine, clock: WallClock
) -> None:
    daemon = cli.serve(environ=clock.environ)
    patient = submit(cli, "patient")
    until((cli.directory / "started").exists)
    daemon.kill()
    clock.turn(-DAY_SECONDS)
    (cli.directory / "go").touch()
    cli.serve(environ=clock.environ)
    assert finish(cli, patient, submit(cli, "count")) == ["completed"] * 2
    assert show(cli, patient)["crashes"] == 1
