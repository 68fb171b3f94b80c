"""One request on a connection, and its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    RequestResponseCycle,
)

from orchd_ops.http.fields import Field


class Exchange(RequestResponseCycle):
    """Sends an answer that is there as a whole in one piece.

    Head and body apart are two system calls, and a receiver that wakes up twice. ASGI
    wants a head to wait for the first part of its body anyway.
    """

    _head: dict[str, Any] | None = None

    async def send(self, message: Any) -> None:
        """Send, or keep, a part of the answer."""
        if message["type"] == "http.response.start" and not self.response_started:
            self._head = message
            return
        head, self._head = self._head, None
        if head is not None:
            whole = self._whole(head, message)
            if whole is not None:
                self._send_whole(whole)
                return
            await super().send(head)  # type: ignore[arg-type]  # a message of ASGI, as it came
        await super().send(message)

    def _whole(self, head: dict[str, Any], message: dict[str, Any]) -> bytes | None:
        """Return the answer's bytes; None when it is no plain one, sent in one go."""
        body: bytes = message.get("body", b"")
        fields: list[Field] = head["headers"]
        if (
            message["type"] != "http.response.body"
            or message.get("more_body", False)
            or self.disconnected
            or self.flow.write_paused
            or not self.keep_alive
            or self.scope["method"] == "HEAD"
            or not _fits(fields, body)
        ):
            return None
        lines = [b"%b: %b\r\n" % field for field in (*self.default_headers, *fields)]
        return b"".join((STATUS_LINE[head["status"]], *lines, b"\r\n", body))

    def _send_whole(self, whole: bytes) -> None:
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        self.transport.write(whole)
        self.message_event.set()
        self.on_response()


def _fits(fields: Sequence[Field], body: bytes) -> bool:
    """Tell whether fields are sound, and announce a body of just this length."""
    names, values = zip(*fields, strict=True) if fields else ((), ())
    if HEADER_RE.search(b"".join(names)) or HEADER_VALUE_RE.search(b"".join(values)):
        return False
    found = dict(fields)
    return b"connection" not in found and found.get(b"content-length") == b"%d" % len(body)
