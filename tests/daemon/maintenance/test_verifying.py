"""The hash chain tells of every change, beside whoever appends."""

from __future__ import annotations

import asyncio

import pytest

from orchd.maintenance.verifying import verify_log
from orchd.system import RealSystem
from support.engines import Harness, ScriptedExecutor
from support.tampering import query, tamper

SYSTEM = RealSystem()


def test_an_untouched_log_is_verified_to_its_end(state_url: str) -> None:
    verdict = verify_log(state_url, system=SYSTEM)
    assert verdict.ok, verdict.problem
    [(position, digest)] = query(state_url, "SELECT position, hash FROM log_head")
    assert (verdict.events, verdict.position, verdict.hash) == (position, position, digest)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET data = '{}' WHERE position = 3",
        "UPDATE events SET stream = 'task-other' WHERE position = 3",
        "DELETE FROM events WHERE position = 3",
        "DELETE FROM commits WHERE last_position"
        " = (SELECT min(last_position) FROM commits)",
    ],
)
def test_a_changed_log_is_named(state_url: str, statement: str) -> None:
    tamper(state_url, statement)
    verdict = verify_log(state_url, system=SYSTEM)
    assert not verdict.ok
    assert "events" in verdict.problem


async def test_a_log_that_grows_meanwhile_is_verified(database_url: str) -> None:
    harness = await Harness.open(database_url, [ScriptedExecutor()])
    working = asyncio.create_task(_keep_busy(harness))
    try:
        for _ in range(10):
            verdict = await asyncio.to_thread(verify_log, database_url, system=SYSTEM)
            assert verdict.ok, verdict.problem
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await harness.close()


async def _keep_busy(harness: Harness) -> None:
    for number in range(10_000):
        await harness.submit(f"t{number}")
