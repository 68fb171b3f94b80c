"""What becomes of a daemon's processes, however the daemon itself ends."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchd.processes.table import children_of, marks_of
from support.command_line import CommandLine, DaemonProcess
from support.commands import is_alive, named

# What runs in it shows neither mark nor session of its run, and ignores SIGTERM.
HIDDEN = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.mkdir(sys.argv[1])
        time.sleep(1000)
    os._exit(0)
time.sleep(1000)
"""
WARM = """
import os, time
def warm(task):
    return str(os.getpid())
def endless(task):
    os.mkdir(task.description)
    time.sleep(1000)
"""


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def start(cli: CommandLine, name: str) -> DaemonProcess:
    """Start a daemon with a task that hides, one that does not, and a task in Python."""
    place = cli.directory
    (place / f"hidden-{name}.py").write_text(HIDDEN)
    (place / "mine.py").write_text(WARM)
    hidden = ["env", "-i", sys.executable, f"{place}/hidden-{name}.py", f"{place}/hides"]
    plain = ["sh", "-c", f"setsid sleep 1000 & echo $! > {place}/plain; sleep 1000"]
    cli.configure(
        "[worker]\nkill_grace = '200ms'\n"
        f"[executors.hidden]\ntype = 'command'\nargv = {hidden}\n"
        f"[executors.plain]\ntype = 'command'\nargv = {plain}\n"
        "[executors.warm]\ntype = 'python'\ntarget = 'mine:warm'\n"
        "[executors.endless]\ntype = 'python'\ntarget = 'mine:endless'\n"
    )
    daemon = cli.serve("--drain-timeout", "100ms")
    cli.ok("submit", "x", "--executor", "warm", "--wait")
    cli.ok("submit", "x", "--executor", "hidden")
    cli.ok("submit", "x", "--executor", "plain")
    cli.ok("submit", f"{place}/endless", "--executor", "endless")
    until(lambda: all((place / made).exists() for made in ("hides", "plain", "endless")))
    until((place / "plain").read_text)
    return daemon


def marked(daemon: DaemonProcess) -> list[int]:
    """Return the living processes that carry a mark of a daemon."""
    owner = f".{daemon.process.pid}."
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    found = [pid for pid in pids if any(owner in mark for mark in marks_of(pid))]
    return [pid for pid in found if is_alive(pid)]


def hidden(name: str) -> list[int]:
    """Return the living processes that carry no mark."""
    return named(f"hidden-{name}.py")


def test_all_end_at_once_when_the_daemon_is_killed(cli: CommandLine) -> None:
    """No new daemon has to come for it: no process goes on unheeded until then."""
    daemon = start(cli, "killed")
    assert len(hidden("killed")) == 2
    # The fork server, four supervisors, two of the plain program and two of Python code.
    assert len(marked(daemon)) >= 9
    daemon.process.send_signal(signal.SIGKILL)
    until(lambda: not hidden("killed") and not marked(daemon), seconds=5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_none_is_left_when_the_daemon_has_stopped(cli: CommandLine, number: int) -> None:
    daemon = start(cli, f"stopped{number}")
    daemon.signal(number)
    assert daemon.wait() == 0
    assert not marked(daemon)
    assert not hidden(f"stopped{number}")


def test_the_next_daemon_ends_what_was_left_and_touches_no_other_state(
    tmp_path: Path,
) -> None:
    """Even when everything that looks after processes is killed along with the daemon."""
    states = [tmp_path / "one", tmp_path / "two"]
    for state in states:
        state.mkdir()
    mine, other = [
        CommandLine(state, f"sqlite:///{state / 'orchd.db'}") for state in states
    ]
    try:
        daemon, neighbour = start(mine, "mine"), start(other, "other")
        below = [p for p in marked(daemon) if _is_keeper(p)]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            # Stopped first, so that none of them sees another die.
            for pid in (daemon.process.pid, *below):
                os.kill(pid, number)
        daemon.process.wait()
        assert is_alive(int((states[0] / "plain").read_text()))
        at_work = sorted(marked(neighbour)), sorted(hidden("other"))
        next_one = mine.serve()
        next_one.wait_for("had left behind")
        assert not marked(daemon)
        assert (sorted(marked(neighbour)), sorted(hidden("other"))) == at_work
    finally:
        mine.close()
        other.close()
        # Nobody can tell whose it was: the one thing that gets away.
        for pid in hidden("mine"):
            os.kill(pid, signal.SIGKILL)


def _is_keeper(pid: int) -> bool:
    return b"fork_server" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_the_fork_server_is_ready_before_the_first_task(cli: CommandLine) -> None:
    """If there is one that needs it, be it later."""
    cli.configure("[executors.warm]\ntype = 'python'\ntarget = 'mine:warm'\n")
    cli.ok("submit", "x", "--executor", "warm", "--in", "1h")
    daemon = cli.serve()
    until(lambda: list(map(_is_keeper, marked(daemon))) == [True])
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    assert not marked(daemon)


def test_who_starts_no_programs_has_no_fork_server(cli: CommandLine) -> None:
    cli.configure("[executors.warm]\ntype = 'python'\ntarget = 'mine:warm'\n")
    daemon = cli.serve()
    cli.ok("submit", "x", "--executor", "echo", "--wait")
    assert not marked(daemon)


def test_a_program_gets_nothing_of_the_daemon(cli: CommandLine) -> None:
    """Neither its descriptors, its secrets, nor its directory."""
    look = (
        "import json, os; print(json.dumps({"
        "'fds': {f: os.readlink(f'/proc/self/fd/{f}') for f in os.listdir('/proc/self/fd')"
        " if os.path.exists(f'/proc/self/fd/{f}')},"
        "'env': dict(os.environ), 'umask': os.umask(0), 'cwd': os.getcwd(),"
        "'mode': os.stat('.').st_mode & 0o777, 'sid': os.getsid(0) == os.getpid(),"
        "'score': open('/proc/self/oom_score_adj').read().strip()}))"
    )
    cli.configure(
        "[executors.look]\ntype = 'command'\n"
        f'argv = [\'{sys.executable}\', \'-c\', """{look}"""]\n'
    )
    secrets = {
        "ANTHROPIC_API_KEY": "geheim-1",
        "NOTIFY_SOCKET": "@geheim-2",
        "LISTEN_FDS": "geheim-3",
        "WATCHDOG_USEC": "3000000",
        "CREDENTIALS_DIRECTORY": "geheim-4",
        "PGPASSWORD": "geheim-5",
    }
    daemon = cli.serve(environ=secrets)
    done = cli.ok("submit", "x", "--executor", "look", "--wait", "-o", "json").json
    seen = json.loads(done["result"])
    assert sorted(seen["fds"]) == ["0", "1", "2"]
    assert "memfd:stdin" in seen["fds"]["0"]
    assert seen["fds"]["1"].startswith("pipe:")
    environment = seen["env"]
    token = (cli.directory / "orchd.db.token").read_text().strip()
    text = json.dumps(environment)
    for secret in (*secrets.values(), token, "orchd.db"):
        assert secret not in text
    assert "ORCHD_TASK_ID" in environment
    assert daemon.url not in text
    assert seen["umask"] == 0o077
    assert (seen["mode"], seen["sid"], seen["score"]) == (0o700, True, "500")
    assert not Path(seen["cwd"]).exists()
    assert children_of(daemon.process.pid)
