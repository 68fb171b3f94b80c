"""Runs the story on the real engine and tells it from the log while it happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from orchd.config.settings import Settings
from orchd.engine.engine import Engine
from orchd.ledger.opening import open_ledger
from orchd.ledger.port import Ledger, TaskFilter
from orchd.operations import Caller, Operations
from orchd.system import System
from orchd_ops.demo.story import FLAG, TASKS
from orchd_ops.demo.telling import tell
from orchd_ops.serve.crew import Crew

PAGE = 500
LOOK_SECONDS = 0.05


class Teller:
    """Follows the log, tells it, and repairs the service once its breaker is open."""

    def __init__(
        self, ledger: Ledger, system: System, say: Callable[[str], None], flag: Path
    ) -> None:
        self._ledger = ledger
        self._system = system
        self._say = say
        self._flag = flag
        self._position = 0

    async def follow(self) -> None:
        """Tell for ever."""
        while True:
            await self.catch_up()
            await self._system.sleep(LOOK_SECONDS)

    async def catch_up(self) -> None:
        """Tell everything that is in the log and has not been told."""
        while entries := await self._ledger.log(after=self._position, limit=PAGE):
            for entry in entries:
                line = tell(entry)
                if line is not None:
                    self._say(line)
                if entry.type == "breaker.opened":
                    self._flag.touch()
            self._position = entries[-1].position


async def run_story(
    settings: Settings, directory: Path, system: System, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Run the story in `directory` and return its tasks as they ended."""
    ledger = open_ledger(
        settings.database, system=system, access="write", create=True, migrate=True
    )
    await ledger.open()
    try:
        return await _run(ledger, settings, directory, system, say)
    finally:
        await ledger.close()


async def _run(
    ledger: Ledger,
    settings: Settings,
    directory: Path,
    system: System,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    crew = Crew(settings, system)
    engine = Engine(
        ledger=ledger,
        executors=crew.executors,
        verifiers=crew.verifiers,
        settings=settings,
        system=system,
    )
    operations = Operations(
        ledger=ledger, commit=engine.requests, settings=settings, system=system
    )
    teller = Teller(ledger, system, say, directory / FLAG)
    await engine.start()
    telling = asyncio.create_task(teller.follow())
    try:
        await operations.submit_all(list(TASKS), Caller("demo"))
        await engine.wait_until_idle()
    finally:
        telling.cancel()
        await operations.close()
        await engine.stop()
    await teller.catch_up()
    listing = await operations.tasks(TaskFilter(), limit=PAGE, cursor=None)
    order = [task["id"] for task in TASKS]
    items: list[dict[str, Any]] = msgspec.json.decode(msgspec.json.encode(listing.items))
    return sorted(items, key=lambda item: order.index(item["id"]))
