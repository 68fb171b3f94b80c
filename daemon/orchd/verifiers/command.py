"""The verifier that runs a registered command."""

from __future__ import annotations

from orchd.config.settings import VerifierSettings, WorkerSettings
from orchd.executors.command import CannotStart, CommandRunner, described_end
from orchd.executors.port import RunContext, Success
from orchd.processes.command_run import CommandEnd
from orchd.system import System
from orchd.verifiers.port import Broken, Passed, Rejected, VerifierAnswer

EXIT_REFUSED = 1


class CommandVerifier:
    """Hands the result to a command on stdin, the description in a file.

    Exit code 0 passes, 1 refuses with stdout as the feedback, anything else is no verdict.
    """

    kind = "command"
    inline = False

    def __init__(
        self,
        settings: VerifierSettings,
        worker: WorkerSettings,
        system: System,
        mark: str,
    ) -> None:
        self.name = settings.name
        self._runner = CommandRunner(
            settings.argv,
            cwd=settings.cwd,
            env=settings.env,
            pass_env=settings.pass_env,
            worker=worker,
            system=system,
            mark=mark,
        )

    async def verify(self, result: Success, context: RunContext) -> VerifierAnswer:
        """Let the command judge a result."""
        try:
            end = await self._runner.run(
                context,
                stdin=result.output,
                part=f"verify-{self.name}",
                files={"ORCHD_TASK_DESCRIPTION_FILE": context.description},
            )
        except CannotStart as error:
            return Broken(error=str(error))
        return _verdict_of(end)

    async def close(self) -> None:
        """Do nothing: a command leaves nothing behind."""


def _verdict_of(end: CommandEnd) -> VerifierAnswer:
    said = end.output.strip()
    if end.exit_code == 0:
        return Passed(feedback=said)
    if end.exit_code == EXIT_REFUSED:
        return Rejected(feedback=said or described_end(end))
    return Broken(error=described_end(end))
