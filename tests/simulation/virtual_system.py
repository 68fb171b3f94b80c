"""`orchd.system.System` for a simulated process."""

from __future__ import annotations

import asyncio
import random

from orchd.system import ProcessIdentity
from simulation.world import Process


class VirtualSystem:
    """Clocks of the process's machine, ids and chance of the process's own."""

    def __init__(self, process: Process, chance: random.Random) -> None:
        self._process = process
        self._machine = process.machine
        self._chance = chance
        self._ids = 0

    def now(self) -> int:
        return self._machine.wall()

    def monotonic(self) -> float:
        return self._machine.boottime()

    def new_id(self) -> str:
        self._ids += 1
        return f"{self._process.name}.{self._ids:06d}"

    def random(self) -> float:
        return self._chance.random()

    def token(self, size_bytes: int = 32) -> str:
        return self._chance.randbytes(size_bytes).hex()

    def identity(self) -> ProcessIdentity:
        machine = self._machine
        process = self._process
        return ProcessIdentity(machine.name, machine.boot_id, process.pid, process.start)

    def process_start(self, pid: int) -> int | None:
        return self._machine.process_start(pid)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def block(self, seconds: float) -> None:
        self._process.freeze(seconds)

    async def spawn(self, *argv: object, **options: object) -> asyncio.subprocess.Process:
        raise AssertionError("a simulated process starts no programs")
