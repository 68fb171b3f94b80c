"""What the sockets are that the daemon listens on."""

from __future__ import annotations

import asyncio
import socket

from orchd_ops.http.listening import listen_tcp


async def test_answers_are_sent_without_delay() -> None:
    """Else each answer to a kept connection waits 40 ms for an acknowledgement."""
    accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def look(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    listener = listen_tcp("127.0.0.1", 0)
    async with await asyncio.start_server(look, sock=listener) as server:
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await accepted == 1
        writer.close()
