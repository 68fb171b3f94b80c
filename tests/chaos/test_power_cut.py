"""What was acknowledged is on the disk: power cuts at random moments lose none of it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from chaos.power_cut import STRACE, Call, Disk, read_trace
from orchd.client import Client, Unavailable
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
    syncs_fail: bool


SYNCS_FAIL = "inject=fsync,fdatasync:error=EIO:when="
LIVES: dict[str, list[tuple[str, ...]]] = {
    "a disk that is well": [()],
    "syncs that fail now and then": [("-e", f"{SYNCS_FAIL}20+17")],
    "syncs that fail until the daemon is killed": [("-e", f"{SYNCS_FAIL}40+"), ()],
}
"""What goes wrong -> for each daemon of one state, what the tracer is to let fail. All but
the last one are killed when they take no more tasks."""


@pytest.fixture(scope="module", params=LIVES)
def recorded(request: pytest.FixtureRequest) -> Iterator[Recorded]:
    """Daemons that accepted and executed tasks under strace."""
    with tempfile.TemporaryDirectory(prefix="orchd-power-") as folder:
        home, before = Path(folder) / "home", Path(folder) / "before"
        state = home / "state"
        state.mkdir(parents=True)
        cli = CommandLine(home, f"sqlite:///{state}/orchd.db")
        try:
            cli.ok("submit", "the first", "--executor", "echo")
            shutil.copytree(state, before)
            trace, tasks = home / "trace", iter(range(TASKS))
            lives = LIVES[request.param]
            for options in lives[:-1]:
                _live(cli, trace, options, tasks, signal.SIGKILL)
            _live(cli, trace, lives[-1], tasks, signal.SIGTERM)
            yield Recorded(state, before, read_trace(trace), TASKS, any(lives))
        finally:
            cli.close()


def _live(
    cli: CommandLine,
    trace: Path,
    options: tuple[str, ...],
    tasks: Iterator[int],
    end: signal.Signals,
) -> None:
    """Let a daemon take tasks until there are none, or it takes none; then end it."""
    strace, *rest = STRACE
    cli.prefix = (strace, *options, *rest, str(trace))
    daemon = cli.start("serve", "--listen", "127.0.0.1:0")
    daemon.url = daemon.wait_for(LISTENING.pattern, daemon.stdout)[1]
    token = (cli.directory / "state" / "orchd.db.token").read_text().strip()
    with suppress(Unavailable), Client(daemon.url, token) as client:
        for number in tasks:
            client.submit(f"text {number}", id=f"p{number:04}", executor="echo")
    # The tracer passes the signal on to nobody, so its child is told itself.
    _children_of(daemon.process.pid, end)
    assert (daemon.wait() == 0) is (end is signal.SIGTERM), daemon.stderr
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
    assert any(call.failed for call in recorded.calls) is recorded.syncs_fail
    moments = _moments(recorded.calls, chance)
    disk = Disk(recorded.directory, recorded.before, chance)
    lost: list[str] = []
    most = 0
    for place, call in enumerate(recorded.calls):
        disk.follow(call)
        if place in moments:
            missing = _missing_after_cut(disk)
            most = max(most, len(disk.acknowledged))
            lost += [f"after call {place}: {task_id}" for task_id in sorted(missing)]
    assert most > recorded.tasks // 2, f"the trace tells of {most} acknowledged tasks"
    assert not lost, f"acknowledged tasks were lost in a power cut: {lost[:5]}"


def _moments(calls: list[Call], chance: random.Random) -> set[int]:
    """Return after which calls the power is cut: any, and most of all after a failure."""
    moments = set(chance.sample(range(len(calls)), min(CUTS, len(calls))))
    failures = [place for place, call in enumerate(calls) if call.failed]
    for place in chance.sample(failures, min(CUTS // 4, len(failures))):
        moments.add(min(place + chance.randrange(20), len(calls) - 1))
    if failures:
        # And before the log of those who are killed has been written anew.
        after = range(failures[-1], min(failures[-1] + 200, len(calls)))
        moments |= set(chance.sample(after, min(CUTS // 2, len(after))))
    return moments


def _missing_after_cut(disk: Disk) -> set[str]:
    with tempfile.TemporaryDirectory(prefix="orchd-cut-") as folder:
        disk.cut(Path(folder))
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
