"""On PostgreSQL a commit is one round trip, and a client that freezes holds nobody up."""

from __future__ import annotations

import asyncio
import time
import urllib.parse
from collections.abc import AsyncIterator, Iterator

import pytest

from orchd.ledger.opening import open_ledger
from orchd.ledger.sql import SQLLedger
from orchd.system import RealSystem
from orchd.tasks.commands import Cancel
from support.ledgers import Hand
from support.postgres import PostgresServer
from support.postgres_proxy import PostgresProxy, running_proxy

LIMITS = {"default": 2, "other": 2}


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[PostgresProxy]:
    """A proxy in front of the PostgreSQL of the session."""
    with running_proxy(postgres_server.host, postgres_server.port) as proxy:
        yield proxy


def opened(url: str) -> SQLLedger:
    return open_ledger(url, system=RealSystem(), access="write", create=True, migrate=True)


@pytest.fixture
async def near(postgres_url: str) -> AsyncIterator[Hand]:
    """A worker with a connection of its own."""
    hand = Hand(opened(postgres_url), "near")
    await hand.register()
    yield hand
    await hand.ledger.close()


@pytest.fixture
async def far(
    near: Hand, postgres_url: str, postgres_server: PostgresServer, proxy: PostgresProxy
) -> AsyncIterator[Hand]:
    """A worker behind the proxy."""
    name = urllib.parse.urlsplit(postgres_url).path.lstrip("/")
    url = proxy.url(postgres_server.tcp_url(name, port=proxy.port))
    hand = Hand(opened(url), "far")
    await hand.register()
    yield hand
    proxy.release()
    await hand.ledger.close()


async def test_ends_submissions_and_claims_are_one_round_trip(
    far: Hand, proxy: PostgresProxy
) -> None:
    for number in range(30):
        await far.submit(f"t{number:02}")
    claimed = await far.claim(5, limits={"default": 10})
    for turn in range(8):  # the driver prepares a statement that it has seen often
        before = proxy.round_trips
        ends = [
            far.act_request(task.state.id, far.completion(task.state), task.state)
            for task in claimed[:1]
        ]
        more = far.submission(f"more{turn}")
        await far.commit(*ends, more, far.claim_request(1, limits={"default": 10}))
        trips = proxy.round_trips - before
        claimed = claimed[1:]
    assert trips == 1


@pytest.mark.parametrize("text", [b"eventstore_append", b"FROM tasks WHERE id"])
async def test_a_frozen_client_holds_nobody_up(
    near: Hand, far: Hand, proxy: PostgresProxy, text: bytes
) -> None:
    """Neither the tasks that it read nor the limits of the queues it claims from wait."""
    for number in range(8):
        await near.submit(f"t{number}", queue="default" if number % 2 else "other")
    await far.commit(far.claim_request(1, limits=LIMITS))
    proxy.hold(text)
    cancel = far.act_request("t3", Cancel(now=far.now()))
    frozen = asyncio.create_task(far.commit(cancel, far.claim_request(1, limits=LIMITS)))
    assert await asyncio.to_thread(proxy.held.wait, 10)
    began = time.monotonic()
    taken = await near.claim(8, limits=LIMITS)
    for task in taken:
        await near.acted(task.state.id, near.completion(task.state), task.state)
    await near.act("t3", Cancel(now=near.now()))
    assert await near.ledger.fence_worker("far", only_if_expired=False)
    assert time.monotonic() - began < 1
    assert len(taken) == 3
    proxy.release()
    await frozen
