"""Messages between the daemon and its children: a length, then JSON. Never pickle."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import msgspec

_LENGTH = struct.Struct("!Q")
_ENCODER = msgspec.json.Encoder(enc_hook=repr)


def pack(message: object) -> bytes:
    """Return a message as a frame; what JSON cannot say travels as its repr.

    Raises:
        Exception: the message cannot be encoded at all.
    """
    body = _ENCODER.encode(message)
    return _LENGTH.pack(len(body)) + body


async def read_frame(reader: asyncio.StreamReader) -> Any:
    """Return the next message.

    Raises:
        EOFError: the other side is gone.
        ValueError: what arrived is no message.
    """
    try:
        size = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))[0]
        return msgspec.json.decode(await reader.readexactly(size))
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise EOFError("the other side is gone") from error


def receive_frame(channel: socket.socket) -> Any:
    """Return the next message, blocking.

    Raises:
        EOFError: the other side is gone.
    """
    size = _LENGTH.unpack(_receive(channel, _LENGTH.size))[0]
    return msgspec.json.decode(_receive(channel, size))


def _receive(channel: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        try:
            part = channel.recv(min(size - len(data), 1024 * 1024))
        except ConnectionError:
            part = b""
        if not part:
            raise EOFError("the other side is gone")
        data += part
    return bytes(data)
