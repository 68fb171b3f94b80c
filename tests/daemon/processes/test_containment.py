"""Programs that try to get away: nothing of a run is alive when it has ended."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from orchd.executors.port import ExecutorPort, Failure, Success
from orchd.processes import launching, supervised
from orchd.processes.launching import fork_server
from orchd.processes.table import ProcessEntry, children_of, read_process, send_signal
from support.commands import command, is_alive, named, script_file, shell
from support.contexts import run_context
from support.waiting import until

ESCAPE = """
import os, signal, sys, time
def detach():
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
ready, ending = sys.argv[1:3]
if os.fork() == 0:
    detach()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    os.mkdir(ready)
    time.sleep(1000)
while not os.path.exists(ready):
    time.sleep(0.01)
if ending == "wait":
    time.sleep(1000)
if ending == "orphan":
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)
sys.exit(int(ending))
"""
"""Leaves a process that is a double fork, leads a session of its own, ignores SIGTERM,
holds no pipe, and carries no mark, for its environment is empty."""

PHOENIX = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range(int(sys.argv[2])):
    if os.fork() == 0:
        break
else:
    os.mkdir(sys.argv[1])
    time.sleep(1000)
while True:
    if os.fork():
        os._exit(0)
    os.setsid()
    time.sleep(0.002)
"""
"""Lineages that never keep a process id for longer than a moment."""

BOMB = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.mkdir(sys.argv[1])
limit = time.monotonic() + 60
while time.monotonic() < limit:
    try:
        if os.fork() == 0:
            os.setsid()
    except OSError:
        pass
    time.sleep(0.1)
"""
"""Doubles every tenth of a second."""


def escaping(tmp_path: Path, ending: str, **settings: Any) -> ExecutorPort:
    program = script_file(tmp_path, ESCAPE)
    ready = tmp_path / "ready"
    return command(
        "env", "-i", sys.executable, str(program), str(ready), ending, **settings
    )


@pytest.mark.parametrize("ending", ["0", "3"])
async def test_what_escaped_from_a_program_that_ended_is_killed(
    tmp_path: Path, ending: str
) -> None:
    answer = await escaping(tmp_path, ending, grace_seconds=0.2).execute(run_context())
    assert isinstance(answer, Success if ending == "0" else Failure)
    assert (tmp_path / "ready").exists()
    assert not named(tmp_path.name)


async def test_what_escaped_from_a_program_that_is_stopped_is_killed(
    tmp_path: Path,
) -> None:
    executor = escaping(tmp_path, "wait", grace_seconds=0.2)
    run = asyncio.create_task(executor.execute(run_context()))
    await until((tmp_path / "ready").exists)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert not named(tmp_path.name)


async def test_what_escaped_is_killed_also_when_its_supervisor_was(tmp_path: Path) -> None:
    answer = await escaping(tmp_path, "orphan").execute(run_context())
    assert isinstance(answer, Failure)
    assert "SIGKILL" in answer.error
    assert not named(tmp_path.name)
    assert isinstance(await command("true").execute(run_context()), Success)


@pytest.mark.parametrize(("program", "argument"), [(PHOENIX, "20"), (BOMB, "")])
async def test_what_forks_faster_than_one_can_look_is_killed(
    tmp_path: Path, program: str, argument: str
) -> None:
    file = script_file(tmp_path, program)
    ready = tmp_path / "ready"
    argv = ("env", "-i", sys.executable, str(file), str(ready), argument)
    run = asyncio.create_task(command(*argv, grace_seconds=0.5).execute(run_context()))
    await until(ready.exists)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert not named(tmp_path.name)


async def test_what_is_frozen_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    script = f"sleep 1001 & touch {ready}; kill -STOP $! $$; sleep 1000"
    executor = shell(script, grace_seconds=0.1)
    run = asyncio.create_task(executor.execute(run_context()))
    await until(ready.exists)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert not named(str(tmp_path))


async def test_a_supervisor_that_its_program_froze_stops_it_all_the_same(
    tmp_path: Path,
) -> None:
    ready = tmp_path / "ready"
    script = f"kill -STOP $PPID; touch {ready}; sleep 1000"
    run = asyncio.create_task(shell(script, grace_seconds=5).execute(run_context()))
    await until(ready.exists)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert not named(str(tmp_path))


async def test_what_was_called_off_before_it_started_never_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork server that was frozen meanwhile must not start what nobody waits for."""
    server = launching.ForkServer()
    monkeypatch.setattr(supervised, "fork_server", server)
    monkeypatch.setattr(supervised, "KILL_SECONDS_MAX", 0.1)
    try:
        await command("true").execute(run_context())
        server._idle.pop().channel.close()
        program = server._program
        assert program is not None
        os.kill(program.pid, signal.SIGSTOP)
        made = tmp_path / "made"
        executor = command("touch", str(made), grace_seconds=0.1)
        run = asyncio.create_task(executor.execute(run_context()))
        await asyncio.sleep(0.1)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        os.kill(program.pid, signal.SIGCONT)
        assert await command("echo", "on").execute(run_context()) == Success(output="on\n")
        assert not made.exists()
    finally:
        server.close()


async def test_what_is_left_in_the_background_may_tidy_up_first(tmp_path: Path) -> None:
    tidy, ready = tmp_path / "tidy", tmp_path / "ready"
    background = (
        f"trap 'touch {tidy}; exit' TERM; touch {ready}; while :; do sleep .01; done"
    )
    script = (
        f"(exec >/dev/null 2>&1; {background}) & until [ -e {ready} ]; do sleep .01; done"
    )
    answer = await shell(script, grace_seconds=10).execute(run_context())
    assert isinstance(answer, Success)
    assert tidy.exists()


async def test_a_run_goes_on_when_the_fork_server_is_killed(tmp_path: Path) -> None:
    ready, go_on = tmp_path / "ready", tmp_path / "go-on"
    script = f"touch {ready}; until [ -e {go_on} ]; do sleep 0.01; done; echo done"
    run = asyncio.create_task(shell(script).execute(run_context()))
    await until(ready.exists)
    program = fork_server._program
    assert program is not None
    os.kill(program.pid, signal.SIGKILL)
    await until(lambda: not is_alive(program.pid))
    others = [command("echo", "on").execute(run_context()) for _ in range(3)]
    assert await asyncio.gather(*others) == [Success(output="on\n")] * 3
    go_on.touch()
    assert await run == Success(output="done\n")


async def test_marks_find_what_is_left_when_both_of_its_keepers_were_killed(
    tmp_path: Path,
) -> None:
    ready = tmp_path / "ready"
    script = (
        f"setsid sleep 1000 & echo $! > {ready}.new; mv {ready}.new {ready}; sleep 1000"
    )
    run = asyncio.create_task(shell(script).execute(run_context()))
    await until(ready.exists)
    child = int(ready.read_text())
    supervisor = ancestor(child)
    program = fork_server._program
    assert program is not None
    for pid in (program.pid, supervisor):
        os.kill(pid, signal.SIGKILL)
    answer = await run
    assert isinstance(answer, Failure)
    assert not is_alive(child)


def ancestor(pid: int) -> int:
    """Return the nearest ancestor that is a supervisor."""
    while True:
        entry = read_process(pid)
        assert entry is not None
        if b"fork_server" in Path(f"/proc/{entry.parent}/cmdline").read_bytes():
            return entry.parent
        pid = entry.parent


async def test_a_supervisor_that_was_killed_while_idle_is_not_asked() -> None:
    await command("true").execute(run_context())
    program = fork_server._program
    assert program is not None
    for supervisor in children_of(program.pid):
        os.kill(supervisor, signal.SIGKILL)
    await until(lambda: not children_of(program.pid))
    assert await command("echo", "on").execute(run_context()) == Success(output="on\n")


async def test_no_zombie_is_left_to_anybody() -> None:
    script = "for i in 1 2 3; do setsid sh -c 'sleep 0.01 &' & done; sleep 0.03"
    runs = (shell(script).execute(run_context()) for _ in range(20))
    assert await asyncio.gather(*runs) == [Success(output="")] * 20
    program = fork_server._program
    assert program is not None
    supervisors = children_of(program.pid)
    assert supervisors
    assert not [child for pid in supervisors for child in children_of(pid)]
    own = [read_process(pid) for pid in children_of(os.getpid())]
    assert not [entry for entry in own if entry is not None and entry.ended]


def test_no_more_supervisors_are_kept_than_may_be_used_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launching, "IDLE_MAX", 2)
    server = launching.ForkServer()
    try:
        taken = [server.take("state/worker/t@0.1.1") for _ in range(5)]
        for one in taken:
            server.give_back(one)
        assert [one.channel.fileno() < 0 for one in taken] == [False] * 2 + [True] * 3
    finally:
        server.close()


async def test_a_signal_hits_no_other_process_with_the_same_number() -> None:
    process = await asyncio.create_subprocess_exec("sleep", "1000")
    entry = read_process(process.pid)
    assert isinstance(entry, ProcessEntry)
    send_signal(entry._replace(start=entry.start - 1), signal.SIGKILL)
    assert is_alive(process.pid)
    send_signal(entry, signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    send_signal(entry, signal.SIGKILL)
