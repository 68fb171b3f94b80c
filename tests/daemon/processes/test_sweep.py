"""A new daemon removes what a dead one of the same state left behind, and nothing else."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from orchd.processes import marks
from orchd.processes.directories import make_directory
from orchd.processes.leftovers import sweep
from orchd.processes.table import MARK_VARIABLE
from orchd.system import RealSystem

DAEMON = """
import sys
from orchd.processes.directories import make_directory
from orchd.processes.marks import run_mark
import subprocess
mark = run_mark(sys.argv[1] + "/worker", "task/1", 1)
child = subprocess.Popen(["setsid", "sleep", "1000"], env={"ORCHD_RUN_MARK": mark,
    "PATH": "/usr/bin:/bin"}, stdout=subprocess.DEVNULL)
print(child.pid, make_directory(mark), flush=True)
sys.stdin.read()
"""


def start_daemon(state: str) -> tuple["subprocess.Popen[str]", int, Path]:
    daemon = subprocess.Popen(
        [sys.executable, "-c", DAEMON, state],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert daemon.stdout is not None
    pid, _, directory = daemon.stdout.readline().strip().partition(" ")
    return daemon, int(pid), Path(directory)


def finish(daemon: "subprocess.Popen[str]") -> None:
    daemon.kill()
    daemon.communicate()


def test_the_children_of_a_dead_daemon_are_killed_and_those_of_a_living_one_are_not() -> (
    None
):
    state = f"state-{os.getpid()}"
    living, living_child, living_directory = start_daemon(state)
    dead, dead_child, dead_directory = start_daemon(state)
    try:
        finish(dead)
        assert sweep(RealSystem(), "another-state") == 0
        assert sweep(RealSystem(), state) == 1
        assert not _is_running(dead_child)
        assert not dead_directory.exists()
        assert _is_running(living_child)
        assert living_directory.exists()
    finally:
        finish(living)
        assert sweep(RealSystem(), state) == 1


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] not in ("Z", "X")
    except OSError:
        return False


def test_a_mark_inside_a_mark_keeps_both() -> None:
    """A task that runs orchd itself must not hide its children from the outer one."""
    os.environ[MARK_VARIABLE] = "outer"
    try:
        assert marks.inherited_mark("inner") == "outer inner"
    finally:
        del os.environ[MARK_VARIABLE]


def test_a_mark_has_no_character_of_a_task_id_that_could_break_it() -> None:
    mark = marks.run_mark("state/worker", "a b/c@d", 7)
    assert mark.startswith("state/worker/a%20b%2Fc%40d/7@")


def test_private_directories_are_private() -> None:
    directory = make_directory(marks.run_mark("state/worker", "t", 1))
    try:
        assert directory.parent == Path(tempfile.gettempdir())
        assert directory.stat().st_mode & 0o777 == 0o700
    finally:
        directory.rmdir()
