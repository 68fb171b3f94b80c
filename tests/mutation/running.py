"""Runs tests and the simulation in a workspace, and says what came of them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import re
import signal
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from multiprocessing.pool import Pool
from typing import NamedTuple

from mutation.workspace import Workspace
from orchd.processes.fork_server import reap, signal_all

RUN_SECONDS_MAX = 300.0
FIRST_SEEDS = range(300)
"""One of these has to see a fault."""
CHUNK_SEEDS = 25
SHOWN_LINES = 15
_PR_SET_CHILD_SUBREAPER = 36
_BROKEN = re.compile(r"^seed (\d+): (.*?)^  again:", re.DOTALL | re.MULTILINE)


class End(StrEnum):
    """What came of a run."""

    PASSED = "passed"
    FAILED = "failed"
    BROKE = "broke"
    """It ended without a verdict: it could not begin, or took too long."""


class Verdict(NamedTuple):
    """What a run said."""

    end: End
    message: str = ""
    seed: int | None = None
    """The seed of the simulation that failed."""


def workers(count: int) -> Pool:
    """Return processes in which the functions below may be called, and nowhere else.

    A mutation may well disable what ends a test's processes. A worker becomes the parent
    of those that lost theirs, and ends all that is below it after each run.
    """
    context = multiprocessing.get_context("spawn")
    return context.Pool(count, initializer=_adopt_orphans)


def _adopt_orphans() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def run_tests(
    there: Workspace,
    tests: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    jobs: int = 0,
    seconds_max: float = RUN_SECONDS_MAX,
) -> Verdict:
    """Run tests by name; a verdict of `FAILED` has the messages of those that failed."""
    report = there.root / "report.xml"
    report.unlink(missing_ok=True)
    arguments = (
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", str(jobs)),
        *("-o", "junit_family=xunit1", "--junitxml", str(report)),
        *(f"tests/{test}" for test in tests),
    )
    code, said = _run(there, "", arguments, environment or {}, seconds_max)
    if code == 0:
        return Verdict(End.PASSED)
    messages = _failures(report.read_text()) if report.exists() else []
    if code == 1 and messages:
        return Verdict(End.FAILED, "\n".join(messages))
    return Verdict(End.BROKE, _last_lines(said))


def _failures(report: str) -> list[str]:
    """Return of each failure the statements that failed, and what they said."""
    failures = ElementTree.fromstring(report).iter("failure")
    return ["\n".join(_marked(each)) or each.get("message", "") for each in failures]


def _marked(failure: ElementTree.Element) -> list[str]:
    lines = (failure.text or "").splitlines()
    return [line[1:].strip() for line in lines if line.startswith((">", "E"))]


def chunks_of(seeds: range) -> list[range]:
    """Return seeds in parts, each of which is soon done."""
    return [seeds[n : n + CHUNK_SEEDS] for n in range(0, len(seeds), CHUNK_SEEDS)]


def simulate(there: Workspace, parts: Iterable[range], *, jobs: int = 1) -> Verdict:
    """Run seeds, part after part, until one breaks a rule."""
    for part in parts:
        arguments = ("-m", "simulation", str(part.start), str(len(part)), str(jobs))
        code, said = _run(there, "tests", arguments, {}, RUN_SECONDS_MAX)
        broken = sorted((int(seed), text) for seed, text in _BROKEN.findall(said))
        if broken:
            seed, text = broken[0]
            return Verdict(End.FAILED, text.strip(), seed)
        if code != 0:
            return Verdict(End.BROKE, _last_lines(said))
    return Verdict(End.PASSED)


def _run(
    there: Workspace,
    folder: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    seconds_max: float,
) -> tuple[int, str]:
    process = subprocess.Popen(
        [there.python, *arguments],
        cwd=there.root / folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said, _ = process.communicate(timeout=seconds_max)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return -1, f"it had not ended after {seconds_max:.0f} s"
    finally:
        _end_orphans()
    return process.returncode, said


def _end_orphans() -> None:
    while reap() is not None:
        signal_all(signal.SIGKILL)
        time.sleep(0.01)


def _last_lines(said: str) -> str:
    return "\n".join(said.strip().splitlines()[-SHOWN_LINES:])
