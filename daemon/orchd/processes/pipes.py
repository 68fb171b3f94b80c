"""Reads a program's output without ever holding more of it than is wanted."""

from __future__ import annotations

import asyncio
import os

READ_BYTES = 64 * 1024


class OutputPipe:
    """A pipe whose reading end is emptied as fast as the program fills it.

    Keeps the first `bytes_max` bytes, or the last ones when `keep_end` is set, and counts
    the rest. The program is never blocked by a full pipe.
    """

    def __init__(self, bytes_max: int, *, keep_end: bool = False) -> None:
        self._bytes_max = bytes_max
        self._keep_end = keep_end
        self._kept = bytearray()
        self.total_bytes = 0
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        """Done once no process holds the writing end any more."""
        self._reading_end, self.writing_end = os.pipe()
        os.set_blocking(self._reading_end, False)
        self._loop.add_reader(self._reading_end, self._read)

    @property
    def kept(self) -> bytes:
        """What was kept so far."""
        if self._keep_end:
            return bytes(self._kept[-self._bytes_max :])
        return bytes(self._kept)

    def release_writing_end(self) -> None:
        """Close our copy of the writing end, once the program has its own."""
        if self.writing_end >= 0:
            os.close(self.writing_end)
            self.writing_end = -1

    def close(self) -> None:
        """Read what is there and close both ends; idempotent."""
        self.release_writing_end()
        if self._reading_end >= 0:
            self._read_the_rest()
        self._close_reading_end()

    def _read_the_rest(self) -> None:
        # At most a pipe full, also when a process goes on writing.
        for _ in range(1024 * 1024 // READ_BYTES):
            before = self.total_bytes
            if self._reading_end >= 0:
                self._read()
            if self.total_bytes == before:
                return

    def _read(self) -> None:
        try:
            data = os.read(self._reading_end, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._keep(data)
        else:
            self._close_reading_end()

    def _keep(self, data: bytes) -> None:
        self.total_bytes += len(data)
        if not self._keep_end:
            self._kept += data[: max(0, self._bytes_max - len(self._kept))]
            return
        self._kept += data
        if len(self._kept) > 2 * self._bytes_max:
            del self._kept[: -self._bytes_max]

    def _close_reading_end(self) -> None:
        if self._reading_end >= 0:
            self._loop.remove_reader(self._reading_end)
            os.close(self._reading_end)
            self._reading_end = -1
        if not self.ended.done():
            self.ended.set_result(None)
