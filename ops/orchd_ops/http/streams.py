"""The log as server-sent events: every event once, in order, from any position on."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from orchd.ledger.port import LedgerUnavailable, LogEntry
from orchd.operations import Operations
from orchd.operations.errors import Overloaded
from orchd.operations.views import event_view
from orchd_ops.http.calls import NUMBER_MAX, Call
from orchd_ops.http.limits import Gate
from orchd_ops.http.problems import problem_of

BATCH_EVENTS = 200
"""Events read, and held in memory, at once for one reader."""
PING_SECONDS = 15.0
SEND_SECONDS = 60.0
"""How long a reader may keep a full buffer before it is let go; it may come back."""
RECONNECT_MILLISECONDS = 1000
HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),
)


async def stream_events(call: Call) -> ASGIApp:
    """Stream the log; `Last-Event-ID`, or `after`, is the last position seen.

    Without either it begins at the beginning; `after=latest` begins with what comes.
    """
    call.check_query("after")
    if call.query.get("after") == "latest":
        after = await call.operations.ledger.log_position()
    else:
        after = call.number("after", 0, 0, NUMBER_MAX)
    seen = call.fields.get(b"last-event-id").strip()
    if seen.isascii() and seen.isdigit() and len(seen) < 19:
        after = int(seen)
    return EventStream(call.operations, call.services.streams, after)


class EventStream:
    """One reader's stream, as an ASGI application."""

    def __init__(self, operations: Operations, gate: Gate, after: int) -> None:
        self._operations = operations
        self._gate = gate
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._gate.enter():
                await self._stream(scope, receive, send)
        except Overloaded as error:
            await problem_of(error, scope["path"])(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": HEADERS}
        await send({**start, "headers": list(HEADERS)})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        writer = asyncio.ensure_future(self._write(send))
        leaver = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait((writer, leaver), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (writer, leaver):
                task.cancel()
                with suppress(asyncio.CancelledError, OSError, TimeoutError):
                    await task

    async def _write(self, send: Send) -> None:
        await _send(send, f"retry: {RECONNECT_MILLISECONDS}\n\n".encode())
        news = self._operations.news
        clock = asyncio.get_running_loop().time
        sent_at = clock()
        while not news.closed:
            event = news.listen()
            entries = await self._read()
            if entries:
                await _send(send, b"".join(map(_frame, entries)))
                self._after = entries[-1].position
                sent_at = clock()
                continue
            await news.wait(event, PING_SECONDS)
            # News may be no more than a hint, so the time since the last byte decides.
            if clock() - sent_at >= PING_SECONDS:
                await _send(send, b": ping\n\n")
                sent_at = clock()
        await send({"type": "http.response.body", "body": b""})

    async def _read(self) -> list[LogEntry]:
        # Nothing of the database is held while the reader takes its time.
        try:
            return await self._operations.log(after=self._after, limit=BATCH_EVENTS)
        except LedgerUnavailable:
            return []


async def _send(send: Send, body: bytes) -> None:
    async with asyncio.timeout(SEND_SECONDS):
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _frame(entry: LogEntry) -> bytes:
    # JSON holds no raw line break, so that one `data` line carries all of it.
    data = msgspec.json.encode(event_view(entry)).replace(b"\n", b" ").replace(b"\r", b" ")
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (entry.position, entry.type.encode(), data)
