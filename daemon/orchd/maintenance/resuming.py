"""Remembers how far a replay got, so that the next one can go on there.

The record is a small file beside the state. It names the log that it is about, and counts
for nothing when that log, the release or the kind of replay is another one, or when it is
old. What it says can only save work: a part counts as done when nothing in it differed, or
when everything that differed was mended.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from orchd.config import places
from orchd.ledger.urls import is_sqlite, sqlite_path
from orchd.maintenance.reading import StateReader
from orchd.maintenance.release import release
from orchd.system import MICROSECONDS_PER_SECOND, System

SAVE_SECONDS = 1.0
"""How often the record is written at most."""
AGE_SECONDS_MAX = 24 * 3600.0
"""What was found out longer ago is found out anew."""
CHECK, MEND = "check", "mend"
_DATABASE_ID = "SELECT oid::bigint FROM pg_database WHERE datname = current_database()"
_COMMIT_HASH = "SELECT hash FROM commits WHERE last_position = ?"


class LogMark(msgspec.Struct, frozen=True):
    """Which log it is, and a commit in it."""

    place: str
    """Tells the database apart from one that takes its name later."""
    position: int
    hash: str


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is written down."""

    log: LogMark
    mode: str
    release: str
    began_at: int
    """In microseconds since the epoch."""
    bounds: tuple[str, ...]
    """Where the parts end."""
    done: tuple[int, ...]
    """The places of the parts that need not be looked at again."""


class Resumption:
    """The record of one replay.

    Args:
        mode: `CHECK` or `MEND`; neither trusts the other's record.
    """

    def __init__(self, url: str, system: System, mode: str) -> None:
        self._url = url
        self._path = places.replay_record(url, os.environ)
        self._system = system
        self._mode = mode
        self._record: Record | None = None
        self._saved_at: float | None = None

    @property
    def mends(self) -> bool:
        """Whether the replay mends what it finds."""
        return self._mode == MEND

    @property
    def path(self) -> Path:
        """Where the record is kept."""
        return self._path

    def find(self, reader: StateReader) -> Record | None:
        """Return the record of an earlier replay of this log, if it can be trusted."""
        try:
            record = msgspec.json.decode(self._path.read_bytes(), type=Record)
        except (OSError, msgspec.MsgspecError):
            return None
        age = self._system.now() - record.began_at
        trusted = (
            (record.mode, record.release) == (self._mode, release())
            and 0 <= age <= AGE_SECONDS_MAX * MICROSECONDS_PER_SECOND
            and record.log.place == _place(self._url, reader)
            and _has_commit(reader, record.log)
        )
        if not trusted:
            return None
        self._record = record
        return record

    def begin(self, reader: StateReader, bounds: Sequence[str]) -> None:
        """Start a new record; it is written as soon as a part is done."""
        head = reader.store.head()
        self._record = Record(
            log=LogMark(_place(self._url, reader), head.position, head.hash),
            mode=self._mode,
            release=release(),
            began_at=self._system.now(),
            bounds=tuple(bounds),
            done=(),
        )

    def note(self, done: Collection[int]) -> None:
        """Write down which parts are done, unless that was written just now."""
        now = self._system.monotonic()
        if self._record is None or self._record.log.position == 0:
            return
        if self._saved_at is not None and now - self._saved_at < SAVE_SECONDS:
            return
        self._saved_at = now
        self._record = msgspec.structs.replace(self._record, done=tuple(sorted(done)))
        # Without a place to write to, the next replay begins anew.
        with suppress(OSError):
            self._write(msgspec.json.encode(self._record))

    def _write(self, text: bytes) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._path.with_name(f"{self._path.name}.new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(text)
        os.replace(new, self._path)

    def forget(self) -> None:
        """Remove the record: there is nothing to go on with."""
        with suppress(OSError):
            self._path.unlink()


def _place(url: str, reader: StateReader) -> str:
    if is_sqlite(url):
        found = sqlite_path(url).stat()
        return f"{found.st_dev}:{found.st_ino}"
    with reader.snapshot() as snapshot:
        return str(snapshot.all(_DATABASE_ID)[0][0])


def _has_commit(reader: StateReader, mark: LogMark) -> bool:
    with reader.snapshot() as snapshot:
        return snapshot.all(_COMMIT_HASH, (mark.position,)) == [(mark.hash,)]
