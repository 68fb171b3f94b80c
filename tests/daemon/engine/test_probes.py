"""A half-open breaker is probed by one task, however long that takes and whoever looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from orchd.breakers import BreakerState, Position
from orchd.config.settings import BreakerSettings
from orchd.executors.port import ExecutorAnswer, Failure, RunContext, Success
from orchd.interfaces import TaskStatus
from orchd.ledger.port import ActOnTask
from orchd.tasks.commands import Cancel
from orchd.tasks.failures import ErrorClass
from support.engines import ORIGIN, Harness, ScriptedExecutor, settings_for, until

COOLDOWN_SECONDS = 0.2


class Service:
    """What the executors of a test depend on: it is down, or it answers when told to."""

    def __init__(self) -> None:
        self.down = True
        self.begun: list[str] = []
        """Tasks that reached the service since it is up."""
        self.answers = asyncio.Event()

    async def ask(self, context: RunContext) -> ExecutorAnswer:
        """Do the work of a task."""
        if self.down:
            return Failure(error="connection refused", error_class=ErrorClass.DEPENDENCY)
        self.begun.append(context.task_id)
        await self.answers.wait()
        return Success(output="up")


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """A service that is down, and that leaves nobody hanging at the end."""
    made = Service()
    yield made
    made.answers.set()


async def _worker(url: str, service: Service) -> Harness:
    breaker = BreakerSettings(failures=1, cooldown_seconds=COOLDOWN_SECONDS)
    settings = settings_for(url, breaker=breaker, lease_seconds=1.0)
    return await Harness.open(url, [ScriptedExecutor(service.ask)], settings=settings)


async def _probing(worker: Harness, service: Service) -> BreakerState:
    """Let the breaker open and its worker probe; return the breaker when it does."""
    await worker.submit("t0", max_attempts=9)

    async def opened() -> bool:
        return bool(await worker.ledger.breakers())

    async with asyncio.timeout(10):
        while not await opened():
            await asyncio.sleep(0.01)
    service.down = False
    await worker.engine.requests([worker.request(f"t{n}") for n in range(1, 5)])
    await until(lambda: bool(service.begun))
    [breaker] = await worker.ledger.breakers()
    assert breaker.position is Position.HALF_OPEN
    return breaker


async def _look_after_patience(worker: Harness, breaker: BreakerState) -> None:
    """Let the worker look at the breakers, several times, when the patience is over."""
    assert breaker.until is not None
    while worker.engine.clock.now() <= breaker.until:
        await asyncio.sleep(0.01)
    for number in range(5):
        # Whatever is committed makes every worker look.
        await worker.submit(f"later-{number}")
        await asyncio.sleep(0.15)


async def test_a_probe_that_outlasts_the_cooldown_stays_the_only_one(
    database_url: str, service: Service
) -> None:
    worker = await _worker(database_url, service)
    try:
        breaker = await _probing(worker, service)
        await _look_after_patience(worker, breaker)
        assert len(service.begun) == 1
        assert await worker.ledger.breakers() == [breaker]
        service.answers.set()
        await worker.settle()
        [closed] = await worker.ledger.breakers()
        assert closed.position is Position.CLOSED
    finally:
        await worker.close()


async def test_nobody_probes_beside_the_probe_of_a_living_worker(
    postgres_url: str, service: Service
) -> None:
    first = await _worker(postgres_url, service)
    second = await _worker(postgres_url, service)
    second.engine.pause_claims()
    try:
        breaker = await _probing(first, service)
        second.engine.resume_claims()
        await _look_after_patience(second, breaker)
        assert len(service.begun) == 1
        assert await first.ledger.breakers() == [breaker]
        service.answers.set()
        await first.settle()
    finally:
        await first.close()
        await second.close()


async def test_a_probe_that_ends_without_an_answer_is_sent_again(
    database_url: str, service: Service
) -> None:
    worker = await _worker(database_url, service)
    try:
        await _probing(worker, service)
        [lost] = service.begun
        cancel = Cancel(now=worker.engine.clock.now())
        await worker.engine.request(ActOnTask(task_id=lost, command=cancel, origin=ORIGIN))
        await until(lambda: len(service.begun) == 2)
        assert (await worker.task(lost)).status is TaskStatus.CANCELLED
        service.answers.set()
        await worker.settle()
        [breaker] = await worker.ledger.breakers()
        assert breaker.position is Position.CLOSED
    finally:
        await worker.close()


async def test_the_probe_of_a_worker_that_died_is_sent_by_another(
    database_url: str, service: Service
) -> None:
    first = await _worker(database_url, service)
    await _probing(first, service)
    await first.crash()
    service.answers.set()
    second = await _worker(database_url, service)
    try:
        await second.settle(40)
        [breaker] = await second.ledger.breakers()
        assert breaker.position is Position.CLOSED
    finally:
        await second.close()
