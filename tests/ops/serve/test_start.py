"""Tasks are at work before anything is served, and signals count from then on."""

from __future__ import annotations

import signal
import sqlite3
import time
from pathlib import Path

import pytest

from ops.serve.conftest import Manager
from support.daemons import Installation
from support.processes import ServerProcess
from support.waiting import wait_until

IMPORT_SECONDS = "IMPORT_SECONDS"
"""The environment variable that tells how long importing what serves HTTP takes here."""
STOP_SECONDS = 20
"""Within so many seconds a daemon with short tasks has ended."""
SLOW_IMPORT = f"""
import os, sys, time

class Slow:
    def find_spec(self, name, path, target=None):
        if name == "orchd_ops.serve.entrance":
            time.sleep(float(os.environ["{IMPORT_SECONDS}"]))

sys.meta_path.insert(0, Slow())
"""
TOML = """
[worker]
concurrency = 1
[executors.nap]
type = "command"
argv = ["sleep", "0.3"]
"""


@pytest.fixture
def installed(tmp_path: Path) -> Installation:
    """A state with tasks for some time, and a daemon that imports slowly."""
    made = Installation(tmp_path, f"sqlite:///{tmp_path}/orchd.db", TOML)
    lines = "\n".join(f'{{"description": "n{n}", "executor": "nap"}}' for n in range(40))
    (tmp_path / "tasks.jsonl").write_text(lines)
    made.succeed("submit", "--file", str(tmp_path / "tasks.jsonl"))
    (tmp_path / "sitecustomize.py").write_text(SLOW_IMPORT)
    made.environment["PYTHONPATH"] = str(tmp_path)
    return made


def started(installed: Installation, *, import_seconds: float) -> ServerProcess:
    """Return a daemon whose first task has begun; nothing is served yet."""
    installed.environment[IMPORT_SECONDS] = str(import_seconds)
    daemon = installed.serve()
    deadline = time.monotonic() + 20
    del installed.environment["PYTHONPATH"]
    while not list(installed.home.glob("**/orchd.db-wal")) or not daemon_works(installed):
        assert time.monotonic() < deadline, daemon.log
        time.sleep(0.05)
    assert "listening" not in daemon.log
    return daemon


def daemon_works(installed: Installation) -> bool:
    """Tell whether a task was started, without asking the daemon."""
    with sqlite3.connect(f"file:{installed.home}/orchd.db?mode=ro", uri=True) as reader:
        query = "SELECT count(*) FROM events WHERE type = 'task.started'"
        return bool(reader.execute(query).fetchone()[0])


def test_a_signal_during_the_import_ends_what_has_begun_and_begins_nothing(
    installed: Installation,
) -> None:
    daemon = started(installed, import_seconds=2 * STOP_SECONDS)
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(STOP_SECONDS) == 0, daemon.log
    events = [event["type"] for event in installed.events()]
    assert events.count("task.started") == events.count("task.completed"), events
    assert events.count("task.started") <= 3
    assert events[-1] == "daemon.stopped"
    assert "listening" not in daemon.log


def test_a_reload_during_the_import_is_not_taken_for_the_end_of_the_start(
    installed: Installation, manager: Manager
) -> None:
    installed.environment["NOTIFY_SOCKET"] = str(manager.path)
    daemon = started(installed, import_seconds=4)
    daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "was read anew" in daemon.log)
    assert "listening" not in daemon.log
    assert "READY=1" not in manager.heard()
    manager.wait_for("READY=1")
    # What the daemon said just before comes by another way, and may come later.
    wait_until(lambda: "listening" in daemon.log)
    daemon.stop()


def test_two_signals_during_the_import_stop_at_once_and_in_order(
    installed: Installation,
) -> None:
    daemon = started(installed, import_seconds=2 * STOP_SECONDS)
    daemon.process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(STOP_SECONDS) == 0, daemon.log
    assert "without the database" not in daemon.log
    assert installed.events()[-1]["type"] == "daemon.stopped"
