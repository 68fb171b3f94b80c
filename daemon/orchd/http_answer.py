"""The head of an HTTP answer, read as the few lines that it is."""

from __future__ import annotations

import http.client
import socket
from io import BufferedReader

LINE_BYTES_MAX = 64 * 1024
"""Longest line of a head."""
FIELDS_MAX = 100
"""Most fields of a head."""
_BODILESS = (http.client.NO_CONTENT, http.client.NOT_MODIFIED)


class HTTPAnswer(http.client.HTTPResponse):
    """An answer of which only the body is left to the standard library.

    That reads a head as it reads mail, which takes longer than all else that it does.

    Attributes:
        fields: the header fields in order, their names in lower case.
    """

    fields: list[tuple[str, str]]

    def __init__(
        self, sock: socket.socket, debuglevel: int = 0, method: str | None = None
    ) -> None:
        super().__init__(sock, debuglevel, method)
        self._bodiless = method == "HEAD"

    def begin(self) -> None:
        """Read the head; raises `HTTPException` when it is none."""
        self.status = http.client.CONTINUE
        while self.status == http.client.CONTINUE:
            self._read_start()
            self.fields = _read_fields(self.fp)
        self.code = self.status
        # Of a field that comes twice the first one counts.
        first = dict(reversed(self.fields))
        self.chunked = first.get("transfer-encoding", "").lower() == "chunked"
        self.chunk_left = None
        self.length = self._length(first.get("content-length", ""))
        self.will_close = (
            self.version == 10
            or "close" in first.get("connection", "").lower()
            or (self.length is None and not self.chunked)
        )

    def _read_start(self) -> None:
        line = _read_line(self.fp)
        if not line:
            raise http.client.RemoteDisconnected("the connection was closed unanswered")
        version, _, rest = line.strip().partition(b" ")
        status, _, reason = rest.strip().partition(b" ")
        if not version.startswith(b"HTTP/1.") or not (
            len(status) == 3 and status.isdigit()
        ):
            raise http.client.BadStatusLine(line.decode("latin-1").strip())
        self.version = 10 if version == b"HTTP/1.0" else 11
        self.status, self.reason = int(status), reason.strip().decode("latin-1")

    def _length(self, declared: str) -> int | None:
        if self._bodiless or self.status < 200 or self.status in _BODILESS:
            return 0
        known = declared.isascii() and declared.isdigit() and len(declared) < 19
        return int(declared) if known and not self.chunked else None


def _read_fields(file: BufferedReader) -> list[tuple[str, str]]:
    fields: list[tuple[str, str]] = []
    while (line := _read_line(file)) not in (b"\r\n", b"\n", b""):
        text = line.decode("latin-1")
        name, colon, value = text.partition(":")
        if text[0] in " \t" and fields:
            # The rest of the line before.
            before, value = fields.pop()
            fields.append((before, f"{value} {text.strip()}"))
        elif colon:
            fields.append((name.strip().lower(), value.strip()))
        if len(fields) > FIELDS_MAX:
            raise http.client.HTTPException(f"an answer has more than {FIELDS_MAX} fields")
    return fields


def _read_line(file: BufferedReader) -> bytes:
    line = file.readline(LINE_BYTES_MAX + 1)
    if len(line) > LINE_BYTES_MAX:
        raise http.client.LineTooLong("head")
    return line
