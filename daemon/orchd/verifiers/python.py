"""The verifier that asks a user's Python class or function."""

from __future__ import annotations

from orchd.config.settings import VerifierSettings, WorkerSettings
from orchd.executors.invocation import CannotLoad, task_of
from orchd.executors.pool import CannotLoadTarget, ChildDied, ChildSettings
from orchd.executors.port import RunContext, Success
from orchd.executors.python import PythonHost
from orchd.system import System
from orchd.verifiers.port import Broken, VerifierAnswer
from orchd.verifiers.verdicts import result_of, verification_answer, verification_error


class PythonVerifier:
    """Asks a user's class or function whether a result stands."""

    kind = "python"
    inline = False

    def __init__(
        self,
        settings: VerifierSettings,
        worker: WorkerSettings,
        system: System,
        mark: str,
    ) -> None:
        self.name = settings.name
        self._system = system
        child = ChildSettings(
            name=settings.name,
            target=settings.target or "",
            method="verify",
            arguments=settings.options,
            env=settings.env,
            worker=worker,
            mark=mark,
        )
        self._host = PythonHost(child, settings.isolation, system)

    async def verify(self, result: Success, context: RunContext) -> VerifierAnswer:
        """Let the code judge a result; whatever it raises is no verdict."""
        try:
            answer = await self._host.answer(
                context,
                request={"result": result},
                arguments=(task_of(context), result_of(result)),
                on_value=verification_answer,
                on_error=lambda error: verification_error(error, self._system.now()),
            )
        except (CannotLoad, CannotLoadTarget, OSError) as error:
            return Broken(error=str(error))
        except ChildDied as error:
            return Broken(error=f"verifier {self.name}: {error}")
        return answer  # type: ignore[return-value]  # on_value and on_error say so

    async def close(self) -> None:
        """Stop the warm children."""
        await self._host.close()
