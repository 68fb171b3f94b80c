"""What is in `running` and `aside` is compared with the log, and mended from it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchd.ledger.opening import open_ledger
from orchd.maintenance.replay import check, mend
from orchd.system import RealSystem
from orchd.tasks import commands as c
from orchd.tasks.failures import ErrorClass
from support.ledgers import Hand
from support.tampering import query, tamper

SYSTEM = RealSystem()


@pytest.fixture
def state(database_url: str) -> str:
    """A state with a task held by a worker, one that failed and one that waits."""
    asyncio.run(_fill(database_url))
    return database_url


async def _fill(url: str) -> None:
    ledger = open_ledger(url, system=SYSTEM, access="write", create=True, migrate=True)
    hand = Hand(ledger)
    await hand.register()
    await hand.submit("dead")
    [claimed] = (await hand.claimed(1)).tasks
    failure = c.Fail(
        now=hand.now(),
        token=claimed.state.token or 0,
        run=1,
        error_class=ErrorClass.EXCEPTION,
        error="no",
        retry_at=0,
        final=True,
    )
    await hand.act("dead", failure)
    await hand.submit("held")
    await hand.claimed(1)
    await hand.submit("waiting")
    await ledger.close()


def places(url: str) -> set[tuple[str, str, str]]:
    return {(d.table, d.row, d.column) for d in check(url, system=SYSTEM)}


def rows(url: str) -> list[Any]:
    running = query(url, "SELECT task_id, worker, cancel_requested FROM running ORDER BY 1")
    return [running, query(url, "SELECT task_id, status, created_at FROM aside ORDER BY 1")]


@pytest.mark.parametrize(
    ("statement", "place"),
    [
        ("DELETE FROM running", ("running", "held", "")),
        ("UPDATE running SET worker = 'nobody'", ("running", "held", "worker")),
        (
            "UPDATE running SET cancel_requested = NOT cancel_requested",
            ("running", "held", "cancel_requested"),
        ),
        ("UPDATE running SET task_id = 'ghost'", ("running", "ghost", "")),
        (
            "INSERT INTO running (worker, task_id, cancel_requested)"
            " SELECT worker, 'waiting', cancel_requested FROM running",
            ("running", "waiting", ""),
        ),
        ("DELETE FROM aside", ("aside", "dead", "")),
        ("UPDATE aside SET task_id = 'ghost'", ("aside", "ghost", "")),
        ("UPDATE aside SET status = 'cancelled'", ("aside", "dead", "status")),
        ("UPDATE aside SET created_at = 7", ("aside", "dead", "created_at")),
        (
            "INSERT INTO aside (task_id, status, created_at) VALUES ('held', 'failed', 7)",
            ("aside", "held", ""),
        ),
    ],
)
def test_a_wrong_list_is_found_and_mended(
    state: str, statement: str, place: tuple[str, str, str]
) -> None:
    before = rows(state)
    assert places(state) == set()
    tamper(state, statement)
    assert place in places(state)
    list(mend(state, system=SYSTEM))
    assert places(state) == set()
    assert rows(state) == before
