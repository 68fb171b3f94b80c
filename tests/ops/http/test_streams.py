"""The event stream: every event once, in order, to fast and slow readers."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager

import pytest

from orchd_ops.http.limits import Gate
from support.api import API, TOKEN


@asynccontextmanager
async def reading(
    api: API, query: str = "", *headers: str
) -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", api.server.port, limit=2**24
    )
    head = [f"GET /v1/events{query} HTTP/1.1", "Host: localhost", *headers]
    head.append(f"Authorization: Bearer {TOKEN}")
    writer.write("\r\n".join(head).encode() + b"\r\n\r\n")
    first = await reader.readuntil(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200"), first
    try:
        yield reader
    finally:
        writer.close()


async def positions(reader: asyncio.StreamReader, count: int) -> list[int]:
    found: list[int] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            line = await reader.readline()
            if line.startswith(b"data:"):
                found.append(json.loads(line[5:])["position"])
    return found


async def test_a_stream_goes_on_after_the_last_event_seen(api: API) -> None:
    for _ in range(5):
        await api.submit()
    async with reading(api) as reader:
        assert await positions(reader, 5) == [1, 2, 3, 4, 5]
    async with reading(api, "", "Last-Event-ID: 3") as reader:
        assert await positions(reader, 2) == [4, 5]
        await api.submit()
        assert await positions(reader, 1) == [6]
    async with reading(api, "?after=5") as reader:
        assert await positions(reader, 1) == [6]
    async with reading(api, "?after=latest") as reader:
        await api.submit()
        assert await positions(reader, 1) == [7]


async def test_many_readers_and_writers_each_see_every_event_once_in_order(
    api: API,
) -> None:
    async def write() -> None:
        for _ in range(40):
            await api.submit()

    async def read() -> list[int]:
        seen: list[int] = []
        while len(seen) < 200:
            # The reader leaves now and then and comes back where it was.
            async with reading(api, f"?after={len(seen)}") as reader:
                seen += await positions(reader, min(30, 200 - len(seen)))
        return seen

    readers = [asyncio.create_task(read()) for _ in range(10)]
    await asyncio.gather(*(write() for _ in range(5)))
    for seen in await asyncio.gather(*readers):
        assert seen == list(range(1, 201))


async def test_an_event_has_the_columns_of_the_table(api: API) -> None:
    await api.submit(id="a")
    async with reading(api) as reader, asyncio.timeout(10):
        text = (await reader.readuntil(b"}\n\n")).decode()
    assert "retry: 1000" in text
    fields = dict(line.partition(": ")[::2] for line in text.split("\n") if ": " in line)
    assert (fields["id"], fields["event"]) == ("1", "task.submitted")
    event = json.loads(fields["data"])
    columns = {"position", "stream", "version", "type", "data", "meta", "recorded_at"}
    assert event.keys() == columns
    assert event["stream"] == "task-a"
    assert event["data"]["description"] == "work"


async def test_a_silent_stream_is_kept_alive_by_pings(
    api: API, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchd_ops.http.streams.PING_SECONDS", 1.5)
    async with reading(api) as reader, asyncio.timeout(20):
        for _ in range(2):
            await reader.readuntil(b": ping\n\n")


async def test_a_reader_that_never_reads_stops_nobody(api: API) -> None:
    async with reading(api):
        for _ in range(30):
            await api.submit(description="x" * 900_000)
        async with reading(api, "?after=29") as other:
            assert await positions(other, 1) == [30]


async def test_streams_and_waiters_end_when_the_server_stops(api: API) -> None:
    task = await api.submit()
    async with reading(api) as reader:
        await positions(reader, 1)
        path = f"/v1/tasks/{task['id']}?wait=60s"
        waiting = asyncio.create_task(api.http.get(path))
        await asyncio.wait((waiting,), timeout=0.2)
        await api.operations.close()
        async with asyncio.timeout(10):
            await reader.readuntil(b"\r\n0\r\n\r\n")
            assert (await waiting).json()["status"] == "pending"


async def test_a_reader_that_leaves_makes_room(api: API) -> None:
    for _ in range(50):
        async with reading(api):
            pass
    # The places are counted per app; a leak would keep them taken.
    app = api.server._server.config.app
    crossing = app._app  # type: ignore[union-attr]  # the door keeper before the crossing
    gate = crossing._fixed["/v1/events"]._services.streams
    deadline = asyncio.get_running_loop().time() + 10
    while gate.inside and asyncio.get_running_loop().time() < deadline:
        await api.http.get("/livez")
    assert gate.inside == 0


@pytest.mark.parametrize("value", ["x", "-1", "1" * 40])
async def test_a_last_event_id_that_is_none_begins_at_the_beginning(
    api: API, value: str
) -> None:
    await api.submit()
    async with reading(api, "", f"Last-Event-ID: {value}") as reader:
        assert await positions(reader, 1) == [1]


async def test_a_stream_too_many_is_refused_and_told_when_to_come_back(
    api: API, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gate, "enter", _full)
    answer = await api.http.get("/v1/events")
    assert (answer.status_code, answer.json()["code"]) == (429, "overloaded")
    assert int(answer.headers["Retry-After"]) > 0


def _full(gate: Gate) -> AbstractContextManager[None]:
    gate._most = 0
    return _enter(gate)


_enter = Gate.enter
