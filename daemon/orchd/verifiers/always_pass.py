"""The verifier that lets every result stand."""

from __future__ import annotations

from orchd.config.settings import VerifierSettings
from orchd.executors.port import RunContext, Success
from orchd.verifiers.port import Passed, VerifierAnswer


class AlwaysPassVerifier:
    """Passes everything, with full confidence."""

    kind = "always-pass"
    inline = True

    def __init__(self, settings: VerifierSettings) -> None:
        self.name = settings.name

    async def verify(self, result: Success, context: RunContext) -> VerifierAnswer:
        """Pass the result."""
        return Passed(feedback="Auto-passed", confidence=1.0)

    async def close(self) -> None:
        """Do nothing: nothing is kept."""
