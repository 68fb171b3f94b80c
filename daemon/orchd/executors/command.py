"""The executor that runs a registered command."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from orchd.config.settings import ExecutorSettings, WorkerSettings
from orchd.executors.port import Deferred, ExecutorAnswer, Failure, RunContext, Success
from orchd.processes.command_run import Command, CommandEnd, CommandRun
from orchd.processes.directories import make_private_directory
from orchd.processes.environment import clean_environment
from orchd.processes.marks import run_mark
from orchd.processes.text import last_lines
from orchd.system import System
from orchd.tasks.failures import ErrorClass

EXIT_LATER = 75
"""EX_TEMPFAIL of sysexits.h: the program asks to be run again later."""
VARIABLE_BYTES_MAX = 64 * 1024
ERROR_BYTES_MAX = 4 * 1024
ERROR_LINES_MAX = 20


class CannotStart(Exception):
    """The program of a command cannot be started."""


class CommandRunner:
    """Runs a configured command for runs of tasks; executors and verifiers share it."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None,
        env: Mapping[str, str],
        pass_env: Sequence[str],
        worker: WorkerSettings,
        system: System,
        mark: str,
    ) -> None:
        self._argv = _with_located_program(argv, cwd)
        self._cwd = cwd
        self._env = env
        self._pass_env = pass_env
        self._worker = worker
        self._system = system
        self._mark = mark

    async def run(
        self,
        context: RunContext,
        *,
        stdin: str,
        part: str,
        files: Mapping[str, str] = MappingProxyType({}),
    ) -> CommandEnd:
        """Run the command to its end.

        Args:
            stdin: what the program reads.
            part: tells the commands of one run apart in their marks.
            files: texts to hand over as files besides the run's own, by the variable
                that names the file.

        Raises:
            CannotStart: the program is missing or cannot be executed.
        """
        mark = run_mark(self._mark, context.task_id, context.run, context.token, part)
        texts, variables = _handed_over(context)
        try:
            directory = await make_private_directory(mark, {**texts, **files})
            try:
                own = {**_variables(context), **variables, **directory.files}
                command = self._command(mark, stdin, own, str(directory.work))
                return await CommandRun(self._system, command).run()
            finally:
                await directory.remove()
        except (OSError, ValueError) as error:
            raise CannotStart(f"cannot start {self._argv[0]}: {error}") from error

    def _command(
        self, mark: str, stdin: str, own: Mapping[str, str], directory: str
    ) -> Command:
        return Command(
            argv=self._argv,
            env=clean_environment(
                os.environ, configured=self._env, pass_names=self._pass_env, own=own
            ),
            cwd=self._cwd or directory,
            stdin=stdin.encode("utf-8", "replace"),
            mark=mark,
            kill_grace_seconds=self._worker.kill_grace_seconds,
            output_bytes_max=self._worker.max_output_bytes,
        )


def _with_located_program(argv: Sequence[str], cwd: str | None) -> tuple[str, ...]:
    # `./check.sh` is meant from where the daemon was started (or from the configured
    # directory), not from the private directory that the program runs in.
    program = argv[0]
    if "/" in program:
        program = os.path.join(os.path.abspath(cwd or os.getcwd()), program)
    return (program, *argv[1:])


def _variables(context: RunContext) -> dict[str, str]:
    variables = {
        "ORCHD_TASK_ID": context.task_id,
        "ORCHD_RUN": str(context.run),
        "ORCHD_ATTEMPT": str(context.attempt),
        "ORCHD_QUEUE": context.queue,
        "ORCHD_FENCING_TOKEN": str(context.token),
        "ORCHD_IDEMPOTENCY_KEY": context.idempotency_key,
    }
    if context.traceparent:
        variables["TRACEPARENT"] = context.traceparent
    return variables


def _handed_over(context: RunContext) -> tuple[dict[str, str], dict[str, str]]:
    # Payload and feedback: always as files, and as variables when they are small.
    texts = {"PAYLOAD": context.payload_text, "FEEDBACK": context.feedback}
    present = {name: text for name, text in texts.items() if text is not None}
    files = {f"ORCHD_{name}_FILE": text for name, text in present.items()}
    variables = {
        f"ORCHD_{name}": text
        for name, text in present.items()
        if len(text.encode("utf-8", "replace")) <= VARIABLE_BYTES_MAX
    }
    return files, variables


def described_end(end: CommandEnd) -> str:
    """Return how a program ended and the last of what it said, for people."""
    said = last_lines(end.errors, ERROR_BYTES_MAX, ERROR_LINES_MAX)
    how = _exit_name(end.exit_code)
    return f"{how}: {said}" if said else how


def _exit_name(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"


class CommandExecutor:
    """Runs a registered command: the description on stdin, the result from stdout.

    The task chooses neither program nor arguments. Exit code 0 is success, 75 asks for a
    later time, anything else is a failure.
    """

    kind = "command"

    def __init__(
        self,
        settings: ExecutorSettings,
        worker: WorkerSettings,
        system: System,
        mark: str,
    ) -> None:
        self.name = settings.name
        self.exclusive = settings.exclusive
        self._runner = CommandRunner(
            settings.argv,
            cwd=settings.cwd,
            env=settings.env,
            pass_env=settings.pass_env,
            worker=worker,
            system=system,
            mark=mark,
        )

    async def execute(self, context: RunContext) -> ExecutorAnswer:
        """Run the command for a task."""
        try:
            end = await self._runner.run(context, stdin=context.description, part="execute")
        except CannotStart as error:
            return Failure(error=str(error), error_class=ErrorClass.CANNOT_START)
        return _answer_of(end)

    async def close(self) -> None:
        """Do nothing: a command leaves nothing behind."""


def _answer_of(end: CommandEnd) -> ExecutorAnswer:
    if end.exit_code == 0:
        return Success(output=end.output)
    if end.exit_code == EXIT_LATER:
        return Deferred(reason=described_end(end), dependency=True)
    return Failure(error=described_end(end))
