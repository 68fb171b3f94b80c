"""Runs one program for a task and leaves nothing of it behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence

import msgspec

from orchd.processes.pipes import OutputPipe
from orchd.processes.supervised import Order, SupervisedProcess
from orchd.processes.text import bounded_text
from orchd.processes.waiting import see_through
from orchd.system import System

ERROR_BYTES_MAX = 64 * 1024
PIPE_PATIENCE_SECONDS = 1.0
"""How long descendants may go on writing after the program itself has ended."""


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
        command = self._command
        order = Order(
            argv=command.argv, env=command.env, cwd=command.cwd, mark=command.mark
        )
        process = SupervisedProcess(self._system, order)
        try:
            await self._start(process, output, errors)
            exit_code = await process.exit_code()
            if not process.is_gone:
                await self._pipes_ended(output, errors)
        finally:
            await self._stop(process)
        return exit_code

    async def _start(
        self, process: SupervisedProcess, output: OutputPipe, errors: OutputPipe
    ) -> None:
        stdin = _file_of(self._command.stdin)
        try:
            await process.start((stdin, output.writing_end, errors.writing_end))
        finally:
            os.close(stdin)
            output.release_writing_end()
            errors.release_writing_end()

    async def _pipes_ended(self, *pipes: OutputPipe) -> None:
        waiting = [pipe.ended for pipe in pipes if not pipe.ended.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=PIPE_PATIENCE_SECONDS)

    async def _stop(self, process: SupervisedProcess) -> None:
        stopping = process.stop(self._command.kill_grace_seconds)
        stopped, interruption = await see_through(stopping, process.hurry)
        stopped.result()
        if interruption is not None:
            raise interruption


def _file_of(data: bytes) -> int:
    # A file in memory: a program that never reads it blocks nobody, and one that ends
    # early breaks no pipe.
    descriptor = os.memfd_create("stdin")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
