"""An engine that has nothing to do asks for little, and misses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from daemon.engine.conftest import Open
from orchd.engine import watch
from orchd.ledger.port import Outcome, Request
from support.engines import Harness, ScriptedExecutor

HOUR = 3_600_000_000
LOOKS = 3
QUIET_SECONDS = 0.3


class Commits:
    """Counts the commits of an engine."""

    def __init__(self, harness: Harness) -> None:
        self.count = 0
        self._commit = harness.ledger.commit
        harness.ledger.commit = self._counted  # type: ignore[method-assign]  # to count

    async def _counted(
        self, requests: Sequence[Request], *, command_id: str
    ) -> list[Outcome]:
        self.count += 1
        return await self._commit(requests, command_id=command_id)

    async def of_some_looks(self, harness: Harness) -> int:
        """Return how many commits there are while the engine looks around some times."""
        await asyncio.sleep(QUIET_SECONDS)
        before = self.count
        for _ in range(LOOKS):
            await harness.engine._watch.tick()
            await asyncio.sleep(QUIET_SECONDS / LOOKS)
        return self.count - before


async def test_what_is_not_ready_is_not_claimed_time_and_again(
    start: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is ready is, whoever it is for."""
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.0)
    harness = await start(ScriptedExecutor())
    commits = Commits(harness)
    await harness.submit("later", run_at=harness.engine.clock.now() + HOUR)
    assert await commits.of_some_looks(harness) == 0
    await harness.submit("for nobody here", executor="elsewhere")
    assert await commits.of_some_looks(harness) >= LOOKS
