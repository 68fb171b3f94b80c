"""Python code of users: where it runs, what it may answer, and that it can be stopped."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from orchd.config.settings import ExecutorSettings, WorkerSettings
from orchd.executors.adapter import ObjectExecutor
from orchd.executors.factory import build_executor
from orchd.executors.pool import ChildPool
from orchd.executors.port import Deferred, ExecutorPort, Failure, Final, Success
from orchd.system import RealSystem, process_start
from orchd.tasks.failures import ErrorClass
from support import user_code
from support.contexts import run_context
from support.waiting import until

TESTS = Path(user_code.__file__).parents[1]
BOTH = pytest.mark.parametrize("isolation", ["process", "thread"])


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))


def python(name: str, isolation: str = "process", **settings: Any) -> ExecutorPort:
    configured = ExecutorSettings(
        name="p",
        type="python",
        target=f"support.user_code:{name}",
        isolation=isolation,
        **settings,
    )
    worker = WorkerSettings(kill_grace_seconds=0.2)
    return build_executor(configured, worker, RealSystem(), "state/worker")


async def answer_of(executor: ExecutorPort, **context: Any) -> Any:
    try:
        return await executor.execute(run_context(**context))
    finally:
        await executor.close()


async def test_a_hundred_tasks_reuse_one_warm_child() -> None:
    executor = python("Counting", options={"greeting": "hi"})
    answers = [await executor.execute(run_context()) for _ in range(100)]
    await executor.close()
    outputs = [a.output.split() for a in answers if isinstance(a, Success)]
    assert len({pid for _, pid, *_ in outputs}) == 1
    assert int(outputs[0][1]) != os.getpid()
    assert [int(count) for _, _, count, *_ in outputs] == list(range(1, 101))
    assert outputs[0][0] == "hi"
    assert process_start(int(outputs[0][1])) is None


async def test_tasks_at_the_same_time_get_children_of_their_own() -> None:
    executor = python("Counting")
    await executor.execute(run_context())
    answers = await asyncio.gather(*(executor.execute(run_context()) for _ in range(3)))
    await executor.close()
    assert len({a.output.split()[1] for a in answers if isinstance(a, Success)}) == 3


@BOTH
async def test_the_context_arrives_whole_and_the_heartbeat_comes_back(
    isolation: str,
) -> None:
    beats: list[None] = []
    answer = await answer_of(
        python("told", isolation),
        payload={"a": 1},
        payload_text='{"a":1}',
        feedback="shorter",
        deadline=77,
        attempt=2,
        heartbeat=lambda: beats.append(None),
    )
    assert answer == Success(output="{'a': 1} shorter 77 2")
    assert beats


async def test_coroutine_functions_run_in_the_daemon() -> None:
    assert await answer_of(python("asynchronous")) == Success(output=str(os.getpid()))


@pytest.mark.parametrize(
    ("name", "kind"), [("asynchronous", Success), ("nothing_of_this_name", Failure)]
)
async def test_many_first_tasks_start_one_child_to_learn_what_the_code_is(
    name: str, kind: type
) -> None:
    executor = python(name)
    answers = await asyncio.gather(*(executor.execute(run_context()) for _ in range(20)))
    await executor.close()
    assert {type(answer) for answer in answers} == {kind}
    assert executor._host._pool._started == 1  # type: ignore[attr-defined]  # to count them


async def test_the_first_task_does_not_wait_for_the_end_of_the_child_that_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The executor does, before it is closed."""
    close, go_on = ChildPool.close, asyncio.Event()

    async def late(self: ChildPool) -> None:
        await go_on.wait()
        await close(self)

    monkeypatch.setattr(ChildPool, "close", late)
    executor = python("asynchronous")
    async with asyncio.timeout(20):
        assert await executor.execute(run_context()) == Success(output=str(os.getpid()))
    closing = asyncio.create_task(executor.close())
    await asyncio.sleep(0.05)
    assert not closing.done()
    go_on.set()
    await closing


async def test_a_search_ends_with_its_executor_and_not_with_who_asked() -> None:
    executor = python("asynchronous")
    impatient, patient = (
        asyncio.create_task(executor.execute(run_context())) for _ in range(2)
    )
    await asyncio.sleep(0)
    impatient.cancel()
    assert isinstance(await patient, Success)
    await executor.close()
    other = python("asynchronous")
    asking = asyncio.create_task(other.execute(run_context()))
    await asyncio.sleep(0)
    await other.close()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_coroutines_are_cancelled() -> None:
    executor = python("asynchronous_forever")
    run = asyncio.create_task(executor.execute(run_context()))
    await asyncio.sleep(0.01)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await executor.close()


@BOTH
@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("unprintable", "Unprintable: (its text cannot be made: ValueError)"),
        ("leave", "SystemExit: 5"),
        ("interrupt", "KeyboardInterrupt"),
        ("recurse", "RecursionError: maximum recursion depth exceeded"),
        ("exhaust", "MemoryError"),
    ],
)
async def test_whatever_is_raised_is_a_failure_of_the_task(
    name: str, error: str, isolation: str
) -> None:
    answer = await answer_of(python(name, isolation))
    assert isinstance(answer, Failure)
    assert answer.error_class is ErrorClass.EXCEPTION
    assert answer.error.partition("\n")[0].startswith(error)
    assert "user_code.py" in answer.error


@BOTH
async def test_wrong_answers_are_told_apart(isolation: str) -> None:
    number = await answer_of(python("number", isolation))
    assert number.error_class is ErrorClass.INVALID_RESULT
    nonsense = await answer_of(python("later_nonsense", isolation))
    assert nonsense.error_class is ErrorClass.INVALID_RESULT
    assert await answer_of(python("refuse", isolation)) == Failure(error="no way")
    assert await answer_of(python("final", isolation)) == Final(error="never")


@BOTH
async def test_later_gives_the_task_back(isolation: str) -> None:
    answer = await answer_of(python("later", isolation))
    assert answer == Deferred(until=4_102_444_800_000_000, reason="too early")


async def test_a_result_from_a_child_is_storable() -> None:
    answer = await answer_of(python("unstorable"))
    assert answer.output.replace("\ufffd", "?").startswith("a?b?")
    assert answer.output.isprintable()
    assert answer.confidence is None


@pytest.mark.parametrize(
    ("name", "cause"), [("vanish", "exit code 3"), ("crash", "SIGSEGV")]
)
async def test_a_child_that_dies_is_a_failure_that_says_how(name: str, cause: str) -> None:
    answer = await answer_of(python(name))
    assert isinstance(answer, Failure)
    assert answer.error_class is ErrorClass.EXCEPTION
    assert cause in answer.error


async def test_a_child_that_was_killed_while_idle_is_replaced() -> None:
    executor = python("Counting")
    first = await executor.execute(run_context())
    assert isinstance(first, Success)
    child = int(first.output.split()[1])
    os.kill(child, signal.SIGKILL)
    await until(lambda: process_start(child) is None)
    second = await answer_of(executor)
    assert isinstance(second, Success)
    assert second.output.split()[2] == "1"


async def test_a_cancelled_child_takes_its_whole_tree_with_it(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    executor = python("stubborn")
    run = asyncio.create_task(executor.execute(run_context(description=str(file))))
    await until(lambda: file.exists() and file.read_text().endswith("\n"))
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await executor.close()
    pids = [int(pid) for pid in file.read_text().split()]
    assert not [pid for pid in pids if process_start(pid) is not None]


async def test_processes_that_the_code_left_behind_are_killed_after_its_task() -> None:
    answer = await answer_of(python("litter"))
    assert isinstance(answer, Success)
    assert process_start(int(answer.output)) is None


@BOTH
async def test_a_target_that_cannot_be_loaded_is_named(isolation: str) -> None:
    answer = await answer_of(python("missing", isolation))
    assert isinstance(answer, Failure)
    assert answer.error_class is ErrorClass.CANNOT_START
    assert "support.user_code:missing" in answer.error


async def test_children_get_nothing_of_the_daemons_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from orchd.processes.environment import interpreter_environment

    monkeypatch.setenv("ORCHD_DATABASE", "secret")
    monkeypatch.setenv("NOTIFY_SOCKET", "secret")
    environment = interpreter_environment(os.environ, {"A": "1"}, {"B": "2"})
    assert "secret" not in environment.values()
    assert (environment["A"], environment["B"]) == ("1", "2")


async def test_an_object_of_the_users_is_called_where_the_embedder_wants() -> None:
    calls: list[object] = []

    async def call(blocking: Any) -> object:
        calls.append(blocking)
        return blocking()

    executor = ObjectExecutor("mine", user_code.Counting(), call, RealSystem())
    answer = await executor.execute(run_context())
    assert isinstance(answer, Success)
    assert len(calls) == 1
    raising = ObjectExecutor("bad", user_code.leave, call, RealSystem())
    assert isinstance(await raising.execute(run_context()), Failure)
