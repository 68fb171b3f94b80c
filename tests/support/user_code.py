"""What users might configure as `type = "python"`, good and bad."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchd.executors.port import RunContext
from orchd.interfaces import (
    ExecutionResult,
    FinalFailure,
    Later,
    Task,
    VerificationResult,
)


class Counting:
    """Counts its calls, to tell whether the object and its process are kept."""

    def __init__(self, greeting: str = "hello") -> None:
        self._greeting = greeting
        self._calls = 0

    def execute(self, task: Task, context: RunContext) -> ExecutionResult:
        os.write(1, b"this must not disturb the protocol\n")
        self._calls += 1
        output = f"{self._greeting} {os.getpid()} {self._calls} {task.description}"
        return ExecutionResult(success=True, output=output, confidence=0.5)


def told(task: Task, context: RunContext) -> str:
    context.heartbeat()
    return f"{context.payload} {context.feedback} {context.deadline} {task.attempts}"


async def asynchronous(task: Task) -> str:
    await asyncio.sleep(0)
    return f"{os.getpid()}"


async def asynchronous_forever(task: Task) -> str:
    await asyncio.Event().wait()
    return ""


def number(task: Task) -> Any:
    return 42


def refuse(task: Task) -> ExecutionResult:
    return ExecutionResult(success=False, output="", confidence=0.0, error="no way")


def later(task: Task) -> str:
    raise Later(datetime(2100, 1, 1, tzinfo=UTC), "too early")


def later_nonsense(task: Task) -> str:
    raise Later("tomorrow")


def final(task: Task) -> str:
    raise FinalFailure("never")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def unprintable(task: Task) -> str:
    raise Unprintable


def leave(task: Task) -> str:
    sys.exit(5)


def interrupt(task: Task) -> str:
    raise KeyboardInterrupt


def recurse(task: Task) -> str:
    return recurse(task)


def exhaust(task: Task) -> str:
    raise MemoryError


def vanish(task: Task) -> str:
    os._exit(3)


def crash(task: Task) -> str:
    os.kill(os.getpid(), signal.SIGSEGV)
    return ""


def unstorable(task: Task) -> ExecutionResult:
    output = "a\0b\ud800c"
    metadata = {"object": object(), "\ud800": 1}
    return ExecutionResult(True, output, float("nan"), metadata=metadata)


def stubborn(task: Task) -> str:
    """Ignores SIGTERM and leaves a child; the description names a file for the pids."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    Path(task.description).write_text(f"{os.getpid()} {child.pid}\n")
    while True:
        time.sleep(1)


def litter(task: Task) -> str:
    return str(subprocess.Popen(["sleep", "1000"], start_new_session=True).pid)


def judge(task: Task, result: ExecutionResult, context: RunContext) -> VerificationResult:
    passed = task.description in result.output
    return VerificationResult(passed, 0.7, "" if passed else "not in it", ["an issue"])


def judge_bool(task: Task, result: ExecutionResult) -> bool:
    return result.output == "good"


def judge_raising(task: Task, result: ExecutionResult) -> bool:
    raise RuntimeError("the judge is ill")


def judge_nonsense(task: Task, result: ExecutionResult) -> str:
    return "yes"
