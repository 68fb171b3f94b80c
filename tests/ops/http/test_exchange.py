"""How requests and answers share one connection."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from orchd_ops.http.server import GuardedProtocol
from support.api import API, TOKEN

LOCAL = f"Host: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
PLAIN = [(b"content-length", b"2")]


class RecordingTransport(asyncio.Transport):
    """Remembers what is written, each write for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def answering(*messages: dict[str, Any]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


def start(headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": 200, "headers": headers}


def part(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def written(app: ASGIApp, method: str = "GET") -> RecordingTransport:
    config = uvicorn.Config(app, log_config=None, access_log=False)
    protocol = GuardedProtocol(config=config, server_state=ServerState(), app_state={})
    transport = RecordingTransport()
    protocol.connection_made(transport)
    protocol.data_received(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    await asyncio.gather(*protocol.tasks)
    protocol.connection_lost(ConnectionResetError())
    return transport


async def test_a_whole_answer_is_one_write() -> None:
    """Two would be two segments, and wake up the receiver twice."""
    transport = await written(answering(start(PLAIN), part(b"{}")))
    (answer,) = transport.writes
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\ndate: " in answer
    assert answer.endswith(b"\r\ncontent-length: 2\r\n\r\n{}")
    assert not transport.closed


async def test_an_answer_in_parts_is_sent_part_by_part() -> None:
    parts = (part(b"a", True), part(b"b", True), part(b""))
    transport = await written(answering(start([]), *parts))
    assert b"transfer-encoding: chunked\r\n" in transport.writes[0]
    assert transport.writes[1:] == [b"1\r\na\r\n", b"1\r\nb\r\n", b"0\r\n\r\n"]


async def test_the_answer_to_head_has_no_body() -> None:
    transport = await written(answering(start(PLAIN), part(b"{}")), "HEAD")
    assert b"".join(transport.writes).endswith(b"content-length: 2\r\n\r\n")


@pytest.mark.parametrize(
    "headers",
    [
        [*PLAIN, (b"x", b"a\r\nset-cookie: b")],
        [*PLAIN, (b"x\r\ny", b"a")],
        [(b"content-length", b"3")],
        [(b"content-length", b"1")],
    ],
)
async def test_an_answer_that_is_no_http_is_not_sent_as_it_is(
    headers: list[tuple[bytes, bytes]],
) -> None:
    transport = await written(answering(start(headers), part(b"{}")))
    sent = b"".join(transport.writes)
    assert b"set-cookie" not in sent
    assert transport.closed


async def test_a_mistake_before_any_body_is_told() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(PLAIN))
        raise ValueError("a mistake")

    (answer, body) = (await written(app)).writes
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert body == b"Internal Server Error"


async def answers(api: API, requests: str) -> bytes:
    """Send requests in one go, and return everything until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    writer.write(requests.encode())
    async with asyncio.timeout(10):
        everything = await reader.read()
    writer.close()
    return everything


async def test_requests_that_are_sent_ahead_are_answered_in_order(api: API) -> None:
    await api.submit(id="a b")
    body = '{"description":"x","id":"second"}'
    everything = await answers(
        api,
        f"GET /v1/tasks/a%20b HTTP/1.1\r\n{LOCAL}\r\n"
        f"HEAD /v1/tasks/a%20b HTTP/1.1\r\n{LOCAL}\r\n"
        f"POST /v1/t%61sks HTTP/1.1\r\n{LOCAL}Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
        f"DELETE /v1/tasks?x=y HTTP/1.1\r\n{LOCAL}\r\n"
        f"GET /livez HTTP/1.1\r\n{LOCAL}Connection: close\r\n\r\n",
    )
    statuses = [int(answer[:3]) for answer in everything.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200, 200, 201, 405, 200]
    places = [everything.index(word) for word in (b'"a b"', b'"second"', b'"instance"')]
    assert places == sorted(places)
    assert everything.count(b'"id":"a b"') == 1
    assert b'"instance":"/v1/tasks"' in everything
    assert b"connection: close" in everything
    assert everything.endswith(b'{"status":"live"}')


async def test_an_old_client_is_answered_and_the_connection_closed(api: API) -> None:
    everything = await answers(api, f"GET /livez HTTP/1.0\r\n{LOCAL}\r\n")
    assert everything.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in everything
    assert everything.endswith(b'{"status":"live"}')


async def test_who_asks_before_it_sends_a_body_is_told_to_go_on(api: API) -> None:
    body = b'{"description":"x"}'
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    writer.write(
        f"POST /v1/tasks HTTP/1.1\r\n{LOCAL}Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n".encode()
    )
    async with asyncio.timeout(10):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 201 ")
    writer.close()
