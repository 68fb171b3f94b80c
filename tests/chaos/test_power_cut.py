"""What was acknowledged is on the disk: power cuts at random moments lose none of it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from chaos.power_cut import STRACE, Call, Disk, read_trace
from orchd.maintenance.replay import check
from orchd.system import RealSystem
from orchd_eventstore.sqlite import driver
from support.command_line import LISTENING, CommandLine

CUTS = int(os.environ.get("ORCHD_TEST_POWER_CUTS", "60"))
TASKS = int(os.environ.get("ORCHD_TEST_POWER_TASKS", "120"))
SEED = int(os.environ.get("ORCHD_TEST_POWER_SEED", "1"))


class Recorded(NamedTuple):
    """A daemon's work, as its system calls tell it."""

    directory: Path
    before: Path
    calls: list[Call]
    tasks: int


@pytest.fixture(scope="module")
def recorded() -> Iterator[Recorded]:
    """A daemon that accepted and executed tasks under strace."""
    with tempfile.TemporaryDirectory(prefix="orchd-power-") as folder:
        home, before = Path(folder) / "home", Path(folder) / "before"
        state = home / "state"
        state.mkdir(parents=True)
        cli = CommandLine(home, f"sqlite:///{state}/orchd.db")
        try:
            cli.ok("submit", "the first", "--executor", "echo")
            shutil.copytree(state, before)
            trace = home / "trace"
            _work(cli, trace)
            yield Recorded(state, before, read_trace(trace), TASKS)
        finally:
            cli.close()


def _work(cli: CommandLine, trace: Path) -> None:
    cli.prefix = (*STRACE, str(trace))
    daemon = cli.start("serve", "--listen", "127.0.0.1:0")
    daemon.url = daemon.wait_for(LISTENING.pattern, daemon.stdout)[1]
    token = (cli.directory / "state" / "orchd.db.token").read_text().strip()
    for number in range(TASKS):
        body = {"id": f"p{number:04}", "description": f"text {number}", "executor": "echo"}
        request = urllib.request.Request(
            f"{daemon.url}/v1/tasks",
            data=json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {token}",
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 201
    # The tracer passes the signal on to nobody, so its child is told itself.
    _children_of(daemon.process.pid, signal.SIGTERM)
    assert daemon.wait() == 0
    cli.prefix = ()


def _children_of(pid: int, number: int) -> None:
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True
    )
    for child in listed.stdout.split():
        os.kill(int(child), number)


@pytest.mark.timeout(1800)
def test_a_power_cut_loses_nothing_that_was_acknowledged(recorded: Recorded) -> None:
    chance = random.Random(SEED)
    moments = sorted(
        chance.sample(range(len(recorded.calls)), min(CUTS, len(recorded.calls)))
    )
    disk, lost, most = Disk(recorded.directory, recorded.before), [], 0
    for place, call in enumerate(recorded.calls):
        disk.follow(call)
        if moments and place == moments[0]:
            moments.pop(0)
            missing = _missing_after_cut(disk, chance)
            most = max(most, len(disk.acknowledged))
            lost += [f"after call {place}: {task_id}" for task_id in sorted(missing)]
    assert most > recorded.tasks // 2, f"the trace tells of {most} acknowledged tasks"
    assert not lost, f"acknowledged tasks were lost in a power cut: {lost[:5]}"


def _missing_after_cut(disk: Disk, chance: random.Random) -> set[str]:
    with tempfile.TemporaryDirectory(prefix="orchd-cut-") as folder:
        disk.cut(Path(folder), chance)
        path = Path(folder) / "orchd.db"
        connection = driver().connect(str(path))
        try:
            [(verdict,)] = connection.execute("PRAGMA integrity_check").fetchall()
            assert verdict == "ok", f"the database is damaged after a power cut: {verdict}"
            found = {row[0] for row in connection.execute("SELECT id FROM tasks")}
        finally:
            connection.close()
        assert not list(check(f"sqlite:///{path}", system=RealSystem()))
    return disk.acknowledged - found
