"""The file format of a checkpoint: a SQLite database that holds a log up to a position.

    manifest(key, value)   format, release, created_at, position, hash, digest, commits,
                           events, blobs, erasures
    events, commits        as in a state, instants in microseconds since the epoch
    blobs, erasures        as in a state

`hash` is that of the last commit in the log's hash chain, so the file proves its own
content; `digest` is SHA-256 over the rest of the manifest, the blobs and the erasures.

Format 1 has no column `rules` in `commits`: all of them follow the first rules. Formats 1
and 2 have no `erasures`, and their digest covers the chain and the names of the blobs only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from orchd.maintenance.errors import CheckpointInvalid, NoSuchCheckpoint
from orchd.maintenance.progress import Progress, silent
from orchd_eventstore import Erasure, RecordedEvent
from orchd_eventstore.sqlite import driver
from orchd_eventstore.verification import CommitRow, Walk

FORMAT_NAME = "orchd checkpoint"
FORMAT_NUMBER = 3
READABLE_NUMBERS = (1, 2, 3)
TABLES = {
    "events": "position INTEGER PRIMARY KEY, stream TEXT, version INTEGER, type TEXT,"
    " data TEXT, meta TEXT, recorded_at INTEGER",
    "commits": "last_position INTEGER PRIMARY KEY, command_id TEXT, events INTEGER,"
    " recorded_at INTEGER, hash TEXT, rules INTEGER",
    "blobs": "hash TEXT PRIMARY KEY, size INTEGER, encoding TEXT, body BLOB",
    "erasures": "position INTEGER PRIMARY KEY, data_hash TEXT, data TEXT,"
    " erased_by INTEGER",
    "manifest": "key TEXT PRIMARY KEY, value TEXT",
}
PAGE_COMMITS = 500

_EVENT = (int, str, int, str, str, str, int)
_COMMIT = (int, str, int, int, str, int)
_BLOB = (str, int, str, bytes)
_ERASURE = (int, str, str, int)
_UNSTORED = frozenset({"path", "recorded"})
"""What the manifest does not say of itself."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint says of itself."""

    path: str
    position: int
    hash: str
    digest: str
    commits: int
    events: int
    blobs: int
    erasures: int = 0
    created_at: int
    """In microseconds since the epoch."""
    release: str
    format: int
    """The number of the file's format."""
    recorded: bool = False
    """Whether its making is an event in the log."""

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest as a JSON object."""
        return msgspec.structs.asdict(self)


class Digest:
    """SHA-256 over what the chain does not cover."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._digest = hashlib.sha256()

    def manifest(self, fields: Mapping[str, Any]) -> None:
        """Cover the manifest, but for the digest itself; comes first."""
        if self._number < 3:
            self._digest.update(fields["hash"].encode())
            return
        for name in sorted(fields.keys() - _UNSTORED - {"digest"}):
            self._add(name, fields[name])

    def blob(self, name: str, size: int, encoding: str) -> None:
        """Cover a blob, whose body its name covers; in the order of their names."""
        if self._number < 3:
            self._digest.update(name.encode())
        else:
            self._add("blob", name, size, encoding)

    def erasure(self, one: Erasure) -> None:
        """Cover an erasure; in the order of their positions."""
        self._add("erasure", one.position, one.data_hash, one.data, one.erased_by)

    def _add(self, *fields: object) -> None:
        for field in fields:
            text = str(field).encode()
            self._digest.update(b"%d:%b," % (len(text), text))

    def text(self) -> str:
        """Return the digest in hexadecimal."""
        return self._digest.hexdigest()


def connect(path: Path, mode: str) -> Any:
    """Open a checkpoint with the driver; `mode` is `ro` or `rwc`."""
    address = f"file:{quote(str(path))}?mode={mode}"
    return driver().connect(address, uri=True, isolation_level=None)


class CheckpointReader:
    """Reads a checkpoint that may be damaged.

    Raises:
        CheckpointInvalid: by every method, for what cannot have been written.
    """

    def __init__(self, connection: Any, path: Path) -> None:
        self._connection = connection
        self._path = path
        self.number = self._format()

    def _format(self) -> int:
        rows = self._rows("SELECT value FROM manifest WHERE key = 'format'", (str,))
        name, _, number = next(iter(rows), ("",))[0].rpartition(" ")
        if name != FORMAT_NAME or not number.isdigit():
            raise CheckpointInvalid(f"{self._path} is no checkpoint of orchd")
        if int(number) not in READABLE_NUMBERS:
            raise CheckpointInvalid(
                f"{self._path} has format {number}, and this orchd reads up to "
                f"{FORMAT_NUMBER}: use the release that made it, or a newer one"
            )
        return int(number)

    def _rows(
        self, query: str, types: Sequence[type], parameters: Sequence[Any] = ()
    ) -> Iterator[tuple[Any, ...]]:
        for row in self._connection.execute(query, tuple(parameters)):
            if any(type(value) is not kind for value, kind in zip(row, types, strict=True)):
                raise CheckpointInvalid(f"{self._path} holds a value of a wrong type")
            yield row

    def manifest(self) -> Manifest:
        """Return what the file says of itself, unchecked."""
        known: dict[str, Any] = dict(
            self._rows("SELECT key, value FROM manifest", (str, str))
        )
        known |= {"path": str(self._path), "format": self.number}
        if not known.keys() <= set(Manifest.__struct_fields__) - {"recorded"}:
            raise CheckpointInvalid(f"{self._path} has a manifest with unknown keys")
        try:
            return msgspec.convert(known, Manifest, strict=False)
        except msgspec.ValidationError as error:
            raise CheckpointInvalid(f"{self._path} has a bad manifest: {error}") from error

    def commits(self) -> Iterator[CommitRow]:
        """Yield the commits in order."""
        rules = "rules" if self.number > 1 else "1"
        query = (
            f"SELECT last_position, command_id, events, recorded_at, hash, {rules}"
            " FROM commits WHERE last_position > ?"
            f" ORDER BY last_position LIMIT {PAGE_COMMITS}"
        )
        after = 0
        while True:
            page = [CommitRow(*row) for row in self._rows(query, _COMMIT, (after,))]
            for commit in page:
                self._require_rising(after, commit.last_position)
                after = commit.last_position
                yield commit
            if not page:
                return

    def events(self, after: int, up_to: int) -> list[RecordedEvent]:
        """Return the events of a range of positions."""
        rows = self._rows(
            "SELECT position, stream, version, type, data, meta, recorded_at FROM events"
            " WHERE position > ? AND position <= ? ORDER BY position",
            _EVENT,
            (after, up_to),
        )
        return [RecordedEvent(*row) for row in rows]

    def erasures(self, after: int, up_to: int) -> list[Erasure]:
        """Return what was erased from the events of a range of positions."""
        if self.number < 3:
            return []
        rows = self._rows(
            "SELECT position, data_hash, data, erased_by FROM erasures"
            " WHERE position > ? AND position <= ? ORDER BY position",
            _ERASURE,
            (after, up_to),
        )
        names = Erasure.__struct_fields__
        return [Erasure(**dict(zip(names, row, strict=True))) for row in rows]

    def blobs(self) -> Iterator[tuple[str, int, str, bytes]]:
        """Yield the blobs in the order of their hashes."""
        before = ""
        query = "SELECT hash, size, encoding, body FROM blobs ORDER BY hash"
        for name, size, encoding, body in self._rows(query, _BLOB):
            self._require_rising(before, name)
            before = name
            yield name, size, encoding, body

    def _require_rising(self, before: Any, after: Any) -> None:
        # A damaged index can send a reader round in circles.
        if not before < after:
            raise CheckpointInvalid(f"{self._path} holds rows out of order")

    def count(self, table: str) -> int:
        """Return how many rows a table holds."""
        return int(self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def verify(path: str | Path, *, progress: Progress | None = None) -> Manifest:
    """Check a checkpoint against itself: chain, counts, blobs, digest.

    Raises:
        CheckpointInvalid: it is no checkpoint, or not as it was written.
    """
    place = Path(path)
    if place.is_dir():
        raise CheckpointInvalid(f"{place} is a directory; name the file of a checkpoint")
    if not place.is_file():
        raise NoSuchCheckpoint(f"there is no checkpoint {place}")
    try:
        with closing(connect(place, "ro")) as connection:
            reader = CheckpointReader(connection, place)
            manifest = reader.manifest()
            _verify_log(reader, manifest, progress or silent)
            _verify_rest(reader, manifest)
            return manifest
    except driver().Error as error:
        raise CheckpointInvalid(f"{place} cannot be read: {error}") from error


def _verify_log(reader: CheckpointReader, manifest: Manifest, progress: Progress) -> None:
    walk = Walk(reader.events, reader.erasures, manifest.position)
    for link in walk.links(reader.commits()):
        _require(
            link.why_bad is None,
            f"commit {link.commit.command_id} (events {walk.position + 1} to "
            f"{link.commit.last_position}): {link.why_bad}",
            manifest,
        )
        progress("events", walk.position, manifest.position)
    found = (walk.position, walk.hash, walk.commits, reader.count("events"))
    told = (manifest.position, manifest.hash, manifest.commits, manifest.events)
    _require(
        found == told and walk.position == manifest.events,
        f"it ends at position {walk.position}, its manifest says {manifest.position}",
        manifest,
    )


def _verify_rest(reader: CheckpointReader, manifest: Manifest) -> None:
    digest, blobs, erasures = Digest(reader.number), 0, 0
    digest.manifest(manifest.as_dict())
    for name, size, encoding, body in reader.blobs():
        whole = len(body) == size and hashlib.sha256(body).hexdigest() == name
        _require(whole, f"blob {name} was changed", manifest)
        digest.blob(name, size, encoding)
        blobs += 1
    for one in reader.erasures(0, manifest.position):
        digest.erasure(one)
        erasures += 1
    same = (blobs, erasures, digest.text()) == (
        manifest.blobs,
        manifest.erasures,
        manifest.digest,
    )
    _require(same, "it does not hold what its manifest says", manifest)


def _require(holds: bool, why: str, manifest: Manifest) -> None:
    if not holds:
        raise CheckpointInvalid(f"{manifest.path} is not as it was written: {why}")
