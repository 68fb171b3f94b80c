"""What a verifier is to the engine, and everything that it can say."""

from __future__ import annotations

from typing import Protocol, TypeAlias

import msgspec

from orchd.executors.port import RunContext, Success


class Passed(msgspec.Struct, frozen=True, kw_only=True):
    """The result stands."""

    feedback: str = ""
    confidence: float | None = None


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """The result does not stand; `feedback` reaches the next attempt."""

    feedback: str
    issues: tuple[str, ...] = ()
    confidence: float | None = None


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """No verdict: the verifier was down or talked nonsense."""

    error: str
    retry_after_seconds: float | None = None


INLINE_CHARACTERS_MAX = 32 * 1024
"""The longest result that is judged before it is recorded."""

VerifierAnswer: TypeAlias = Passed | Rejected | Broken


class VerifierPort(Protocol):
    """A verifier as the engine drives it; cancelled like an executor.

    Whatever it raises counts as `Broken`.
    """

    name: str
    kind: str
    """`always-pass`, `command`, `schema`, `regex`, `python`, `http` or `claude`."""
    inline: bool
    """Whether it costs nothing and answers at once, in the daemon's own process, so
    that a result of at most `INLINE_CHARACTERS_MAX` need not be recorded before it is
    asked."""

    async def verify(self, result: Success, context: RunContext) -> VerifierAnswer: ...

    async def close(self) -> None:
        """Stop whatever is kept warm between runs; idempotent."""
        ...
