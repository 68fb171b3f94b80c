"""Runs one program for a task and leaves nothing of it behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from orchd.processes.marks import inherited_mark
from orchd.processes.pipes import OutputPipe
from orchd.processes.reaping import reaper
from orchd.processes.table import MARK_VARIABLE, read_process
from orchd.processes.text import bounded_text
from orchd.processes.tree import ProcessTree
from orchd.processes.waiting import see_through
from orchd.system import System

ERROR_BYTES_MAX = 64 * 1024
PIPE_PATIENCE_SECONDS = 1.0
"""How long descendants may go on writing after the program itself has ended."""
OUT_OF_MEMORY_SCORE = 500
"""Added to a child's score, so that the kernel kills tasks rather than the daemon."""


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A program to run. `argv` is never given to a shell."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    stdin: bytes
    mark: str
    kill_grace_seconds: float
    output_bytes_max: int


class CommandEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a program ended."""

    exit_code: int
    """Its exit code, or the negative number of the signal that ended it."""
    output: str
    """What it wrote to stdout, as storable text of at most `output_bytes_max` bytes."""
    errors: bytes
    """The end of what it wrote to stderr."""


class CommandRun:
    """One run of one program.

    When `run` returns or raises, cancelled or not, no process of the program is alive:
    what is left of its tree gets SIGTERM, and after the grace SIGKILL.
    """

    def __init__(self, system: System, command: Command) -> None:
        self._system = system
        self._command = command

    async def run(self) -> CommandEnd:
        """Run the program to its end.

        Raises:
            OSError, ValueError: the program cannot be started.
            asyncio.CancelledError: the run was cancelled; the program has been stopped.
        """
        output = OutputPipe(self._command.output_bytes_max)
        errors = OutputPipe(ERROR_BYTES_MAX, keep_end=True)
        try:
            exit_code = await self._run(output, errors)
        finally:
            output.close()
            errors.close()
        limit = self._command.output_bytes_max
        text = bounded_text(output.kept, output.total_bytes, limit)
        return CommandEnd(exit_code=exit_code, output=text, errors=errors.kept)

    async def _run(self, output: OutputPipe, errors: OutputPipe) -> int:
        # The start is seen through: broken off, it could leave a program behind.
        started, interruption = await see_through(self._start(output, errors))
        if interruption is not None and started.exception() is not None:
            raise interruption
        process = started.result()
        reaper.own(process.pid)
        tree = ProcessTree(self._system, process.pid, self._command.mark)
        try:
            if interruption is not None:
                raise interruption
            _offer_to_out_of_memory_killer(process.pid)
            exit_code = await process.wait()
            await self._pipes_ended(output, errors)
        finally:
            await self._stop(process, tree)
        return exit_code

    async def _start(
        self, output: OutputPipe, errors: OutputPipe
    ) -> asyncio.subprocess.Process:
        command = self._command
        stdin = _file_of(command.stdin)
        try:
            return await self._system.spawn(
                command.argv,
                env={**command.env, MARK_VARIABLE: inherited_mark(command.mark)},
                cwd=command.cwd,
                stdin=stdin,
                stdout=output.writing_end,
                stderr=errors.writing_end,
            )
        finally:
            os.close(stdin)
            output.release_writing_end()
            errors.release_writing_end()

    async def _pipes_ended(self, *pipes: OutputPipe) -> None:
        waiting = [pipe.ended for pipe in pipes if not pipe.ended.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=PIPE_PATIENCE_SECONDS)

    async def _stop(self, process: asyncio.subprocess.Process, tree: ProcessTree) -> None:
        stopping = tree.stop(self._command.kill_grace_seconds)
        stopped, interruption = await see_through(stopping, tree.hurry)
        if has_ended(process.pid):
            await process.wait()
            reaper.disown(process.pid)
        stopped.result()
        if interruption is not None:
            raise interruption


def has_ended(pid: int) -> bool:
    """Tell whether a child has ended, so that waiting for it takes no time."""
    entry = read_process(pid)
    return entry is None or entry.ended


def _file_of(data: bytes) -> int:
    # A file in memory: a program that never reads it blocks nobody, and one that ends
    # early breaks no pipe.
    descriptor = os.memfd_create("stdin")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _offer_to_out_of_memory_killer(pid: int) -> None:
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(OUT_OF_MEMORY_SCORE))
