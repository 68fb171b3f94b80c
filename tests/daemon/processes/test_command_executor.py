"""Commands: what they get, what becomes of their output, and that nothing stays behind."""

import asyncio
import resource
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from orchd.errors import ConfigurationError
from orchd.executors.port import Deferred, ExecutorPort, Failure, Success
from orchd.tasks.failures import ErrorClass
from support.commands import command, is_alive, shell
from support.contexts import run_context
from support.waiting import until

WAIT_SECONDS = 20


async def output_of(executor: ExecutorPort, **context: Any) -> str:
    answer = await executor.execute(run_context(**context))
    assert isinstance(answer, Success), answer
    return answer.output


async def test_the_description_is_stdin_and_stdout_is_the_result() -> None:
    assert await output_of(command("wc", "-w")) == "3\n"


async def test_a_command_gets_its_run_in_variables_and_files() -> None:
    script = (
        'echo "$ORCHD_TASK_ID $ORCHD_RUN $ORCHD_ATTEMPT $ORCHD_QUEUE" '
        '"$ORCHD_FENCING_TOKEN $ORCHD_IDEMPOTENCY_KEY $TRACEPARENT";'
        'echo "$ORCHD_PAYLOAD $ORCHD_FEEDBACK";'
        'cat "$ORCHD_PAYLOAD_FILE" "$ORCHD_FEEDBACK_FILE";'
        'stat -c %a "$(dirname "$ORCHD_PAYLOAD_FILE")"'
    )
    said = await output_of(
        shell(script),
        run=4,
        attempt=2,
        payload_text='{"a":1}',
        feedback="shorter",
        traceparent="00-ab-cd-01",
    )
    assert said.splitlines() == [
        "t 4 2 default 3 t:0 00-ab-cd-01",
        '{"a":1} shorter',
        '{"a":1}shorter700',
    ]


async def test_a_large_payload_is_only_in_its_file() -> None:
    payload = '"' + "x" * 70_000 + '"'
    script = 'echo "${ORCHD_PAYLOAD-none}"; wc -c < "$ORCHD_PAYLOAD_FILE"'
    said = await output_of(shell(script), payload_text=payload)
    assert said.split() == ["none", "70002"]


async def test_a_task_cannot_inject_into_the_command(tmp_path: Path) -> None:
    victim = tmp_path / "made"
    nasty = f"; touch {victim} $(touch {victim}) `touch {victim}`\n-rf %s"
    executor = command("sh", "-c", 'printf %s "$ORCHD_PAYLOAD"; cat')
    said = await output_of(
        executor, description=nasty, payload_text=nasty, task_id="../../x"
    )
    assert said == nasty * 2
    assert not victim.exists()


async def test_nothing_of_the_daemon_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = (
        *("ANTHROPIC_API_KEY", "ORCHD_DATABASE", "NOTIFY_SOCKET", "LISTEN_FDS"),
        *("WATCHDOG_USEC", "CREDENTIALS_DIRECTORY", "UNRELATED"),
    )
    for name in secrets:
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("WANTED", "handed on")
    with socket.socket() as extra:
        extra.set_inheritable(True)
        executor = shell(
            "env; exec python3 -c 'import os; "
            'print("fds", [f for f in range(100) if os.path.exists(f"/dev/fd/{f}")])\'',
            pass_env=("WANTED",),
            env={"SET": "by configuration"},
        )
        said = (await output_of(executor)).splitlines()
    assert "WANTED=handed on" in said
    assert "SET=by configuration" in said
    assert not [line for line in said if line.partition("=")[2] == "secret"]
    assert "fds [0, 1, 2]" in said


async def test_the_daemons_own_variables_cannot_be_handed_on() -> None:
    with pytest.raises(ConfigurationError, match="pass_env"):
        shell("true", pass_env=("ORCHD_DATABASE",))


async def test_a_command_runs_in_a_private_directory_that_is_removed() -> None:
    made = Path((await output_of(shell("pwd; touch x; chmod 0 .; true"))).strip())
    assert made.name == "work"
    assert not made.parent.exists()


async def test_a_relative_program_is_found_from_where_the_daemon_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "check.sh"
    script.write_text("#!/bin/sh\necho ran\n")
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert await output_of(command("./check.sh")) == "ran\n"


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("echo one >&2; echo why >&2; exit 3", "exit code 3: one\nwhy"),
        ("kill -9 $$", "killed by SIGKILL"),
        ("exit 1", "exit code 1"),
    ],
)
async def test_a_failing_end_is_a_failure_that_says_how(script: str, error: str) -> None:
    assert await shell(script).execute(run_context()) == Failure(error=error)


async def test_exit_75_asks_for_a_later_time() -> None:
    answer = await shell("echo busy >&2; exit 75").execute(run_context())
    assert answer == Deferred(reason="exit code 75: busy", dependency=True)


@pytest.mark.parametrize("program", ["no-such-program", "/etc/hostname", "/"])
async def test_a_program_that_cannot_start_is_named(program: str) -> None:
    answer = await command(program).execute(run_context())
    assert isinstance(answer, Failure)
    assert answer.error_class is ErrorClass.CANNOT_START
    assert program in answer.error


async def test_a_program_that_ignores_its_input_does_not_hang() -> None:
    assert await output_of(command("true"), description="x" * (4 << 20)) == ""


async def test_a_printer_of_a_gigabyte_is_cut_and_costs_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    executor = shell("head -c 1000000000 /dev/zero", output_bytes=1 << 20)
    said = await output_of(executor)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert len(said.encode()) <= 1 << 20
    assert said.endswith("bytes more were cut]")
    assert grown_kib < 64 * 1024


async def test_only_the_end_of_endless_messages_is_kept() -> None:
    script = "head -c 50000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo last >&2; exit 1"
    answer = await shell(script).execute(run_context())
    assert isinstance(answer, Failure)
    assert answer.error.endswith("last")
    assert len(answer.error) < 8_192


async def test_output_becomes_storable_text() -> None:
    assert await output_of(shell(r"printf 'a\377b\000c'")) == "a\ufffdb\ufffdc"


async def test_a_holder_of_the_pipes_does_not_hang_the_run_and_is_killed(
    tmp_path: Path,
) -> None:
    file = tmp_path / "pid"
    said = await output_of(shell(f"sleep 1000 & echo $! > {file}; echo done"))
    assert said == "done\n"
    assert not is_alive(int(file.read_text()))


async def test_a_double_fork_without_pipes_is_killed_at_a_normal_end(
    tmp_path: Path,
) -> None:
    file = tmp_path / "pid"
    inner = f"sh -c 'echo $$ > {file}; exec sleep 1000' <&- >/dev/null 2>&1 &"
    script = f'setsid sh -c "{inner.replace("$$", chr(92) + "$$")}"; '
    script += f"while ! [ -s {file} ]; do sleep 0.01; done"
    await output_of(shell(script))
    assert not is_alive(int(file.read_text()))


async def test_a_cancelled_command_takes_its_whole_tree_with_it(tmp_path: Path) -> None:
    """Also a child that ignores SIGTERM, in a session of its own."""
    file = tmp_path / "pids"
    script = (
        "trap '' TERM; (setsid sh -c 'trap \"\" TERM; echo $$ >> "
        f"{file}; while :; do sleep 1; done' &) ; echo $$ >> {file}; "
        "while :; do sleep 1; done"
    )
    executor = shell(script, grace_seconds=0.2)
    run = asyncio.create_task(executor.execute(run_context()))
    await until(lambda: file.exists() and len(file.read_text().split()) == 2)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert not [pid for pid in file.read_text().split() if is_alive(int(pid))]


async def test_sigterm_comes_first_and_leaves_time_to_tidy_up(tmp_path: Path) -> None:
    tidy, ready = tmp_path / "tidy", tmp_path / "ready"
    script = f"trap 'touch {tidy}; exit' TERM; touch {ready}; while :; do sleep 0.05; done"
    run = asyncio.create_task(shell(script, grace_seconds=10).execute(run_context()))
    await until(ready.exists)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert tidy.exists()


async def test_a_second_cancellation_ends_the_grace(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    script = f"trap '' TERM; touch {ready}; while :; do sleep 0.05; done"
    run = asyncio.create_task(shell(script, grace_seconds=1000).execute(run_context()))
    await until(ready.exists)
    run.cancel()
    await asyncio.sleep(0.05)
    run.cancel()
    async with asyncio.timeout(WAIT_SECONDS):
        with pytest.raises(asyncio.CancelledError):
            await run


async def test_a_cancellation_during_the_start_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    run = asyncio.create_task(shell(f"echo $$ > {file}; sleep 1000").execute(run_context()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert not (file.exists() and is_alive(int(file.read_text() or 0)))


async def test_children_are_the_first_to_go_when_memory_is_short() -> None:
    script = "while [ $(cat /proc/self/oom_score_adj) = 0 ]; do sleep 0.01; done; echo up"
    assert await output_of(shell(script)) == "up\n"


async def test_signals_that_the_daemon_ignores_are_normal_in_a_command() -> None:
    before = signal.getsignal(signal.SIGPIPE)
    assert before == signal.SIG_IGN
    assert await output_of(shell("yes | head -n 1")) == "y\n"
