"""The file format of a checkpoint: a SQLite database that holds a log up to a position.

    manifest(key, value)   format, release, created_at, position, hash, digest, commits,
                           events, blobs
    events, commits        as in a state, instants in microseconds since the epoch
    blobs                  as in a state

Format 1 has no column `rules` in `commits`: all of them follow the first rules.

`hash` is that of the last commit in the log's hash chain, so the file proves its own
content; `digest` is SHA-256 over that hash and the blobs' hashes in order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from orchd.maintenance.errors import CheckpointInvalid
from orchd.maintenance.progress import Progress, silent
from orchd_eventstore import RecordedEvent
from orchd_eventstore.chain import KNOWN_RULES, commit_hash
from orchd_eventstore.schema import GENESIS_HASH
from orchd_eventstore.sqlite import driver

FORMAT = "orchd checkpoint 2"
READABLE_FORMATS = ("orchd checkpoint 1", FORMAT)
TABLES = {
    "events": "position INTEGER PRIMARY KEY, stream TEXT, version INTEGER, type TEXT,"
    " data TEXT, meta TEXT, recorded_at INTEGER",
    "commits": "last_position INTEGER PRIMARY KEY, command_id TEXT, events INTEGER,"
    " recorded_at INTEGER, hash TEXT, rules INTEGER",
    "blobs": "hash TEXT PRIMARY KEY, size INTEGER, encoding TEXT, body BLOB",
    "manifest": "key TEXT PRIMARY KEY, value TEXT",
}
PAGE_COMMITS = 500

Commit = tuple[int, str, int, int, str, int]
"""last_position, command_id, events, recorded_at, hash, rules."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint says of itself."""

    path: str
    position: int
    hash: str
    digest: str
    commits: int
    events: int
    blobs: int
    created_at: int
    """In microseconds since the epoch."""
    release: str
    recorded: bool = False
    """Whether its making is an event in the log."""

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest as a JSON object."""
        return msgspec.structs.asdict(self)


class Digest:
    """SHA-256 over the chain's hash and the hashes of blobs."""

    def __init__(self, chain: str) -> None:
        self._digest = hashlib.sha256(chain.encode())

    def add(self, blob: str) -> None:
        """Cover one more blob; in the order of their hashes."""
        self._digest.update(blob.encode())

    def text(self) -> str:
        """Return the digest in hexadecimal."""
        return self._digest.hexdigest()


def connect(path: Path, mode: str) -> Any:
    """Open a checkpoint with the driver; `mode` is `ro` or `rwc`."""
    address = f"file:{quote(str(path))}?mode={mode}"
    return driver().connect(address, uri=True, isolation_level=None)


class CheckpointReader:
    """Reads a checkpoint that may be damaged."""

    def __init__(self, connection: Any, path: Path) -> None:
        self._connection = connection
        self._path = path

    def manifest(self) -> Manifest:
        """Return what the file says of itself, unchecked."""
        known = dict(self._connection.execute("SELECT key, value FROM manifest"))
        if known.pop("format", None) not in READABLE_FORMATS:
            raise CheckpointInvalid(f"{self._path} is no checkpoint of this format")
        try:
            return msgspec.convert(
                known | {"path": str(self._path)}, Manifest, strict=False
            )
        except msgspec.ValidationError as error:
            raise CheckpointInvalid(f"{self._path} has a bad manifest: {error}") from error

    def commits(self) -> Iterator[Commit]:
        """Yield the commits in order."""
        after = -1
        columns = self._connection.execute("PRAGMA table_info(commits)").fetchall()
        rules = "rules" if any(column[1] == "rules" for column in columns) else "1"
        while True:
            page = self._connection.execute(
                f"SELECT last_position, command_id, events, recorded_at, hash, {rules}"
                " FROM commits"
                f" WHERE last_position > ? ORDER BY last_position LIMIT {PAGE_COMMITS}",
                (after,),
            ).fetchall()
            yield from page
            if not page:
                return
            after = page[-1][0]

    def events(self, after: int, up_to: int) -> list[RecordedEvent]:
        """Return the events of a range of positions."""
        rows = self._connection.execute(
            "SELECT position, stream, version, type, data, meta, recorded_at FROM events"
            " WHERE position > ? AND position <= ? ORDER BY position",
            (after, up_to),
        )
        return [RecordedEvent(*row) for row in rows]

    def blobs(self) -> Iterator[tuple[str, int, str, bytes]]:
        """Yield the blobs in the order of their hashes."""
        yield from self._connection.execute(
            "SELECT hash, size, encoding, body FROM blobs ORDER BY hash"
        )

    def count_events(self) -> int:
        """Return how many events the file holds, whatever their position."""
        return int(self._connection.execute("SELECT count(*) FROM events").fetchone()[0])


def verify(path: str | Path, *, progress: Progress | None = None) -> Manifest:
    """Check a checkpoint against itself: chain, counts, blobs, digest.

    Raises:
        CheckpointInvalid: it is no checkpoint, or not as it was written.
    """
    place = Path(path)
    if not place.is_file():
        raise CheckpointInvalid(f"there is no checkpoint {place}")
    try:
        with closing(connect(place, "ro")) as connection:
            reader = CheckpointReader(connection, place)
            manifest = reader.manifest()
            _verify_content(reader, manifest, progress or silent)
            return manifest
    except driver().Error as error:
        raise CheckpointInvalid(f"{place} cannot be read: {error}") from error


def _verify_content(
    reader: CheckpointReader, manifest: Manifest, progress: Progress
) -> None:
    position, chain, commits = 0, GENESIS_HASH, 0
    for last, command_id, count, recorded_at, digest, rules in reader.commits():
        events = reader.events(position, last)
        _require(
            [event.position for event in events] == list(range(position + 1, last + 1))
            and len(events) == count
            and all(event.recorded_at == recorded_at for event in events)
            and rules in KNOWN_RULES
            and commit_hash(chain, command_id, recorded_at, events, rules) == digest,
            f"commit {command_id} (events {position + 1} to {last}) was changed",
            manifest,
        )
        position, chain, commits = last, digest, commits + 1
        if commits % PAGE_COMMITS == 0:
            progress("events", position, manifest.position)
    _require(
        (position, chain, commits) == (manifest.position, manifest.hash, manifest.commits)
        and reader.count_events() == manifest.events == position,
        f"it ends at position {position}, its manifest says {manifest.position}",
        manifest,
    )
    _verify_blobs(reader, manifest)


def _verify_blobs(reader: CheckpointReader, manifest: Manifest) -> None:
    digest, count = Digest(manifest.hash), 0
    for name, size, _, body in reader.blobs():
        whole = len(body) == size and hashlib.sha256(body).hexdigest() == name
        _require(whole, f"blob {name} was changed", manifest)
        digest.add(name)
        count += 1
    same = (count, digest.text()) == (manifest.blobs, manifest.digest)
    _require(same, "its blobs are not those of its manifest", manifest)


def _require(holds: bool, why: str, manifest: Manifest) -> None:
    if not holds:
        raise CheckpointInvalid(f"{manifest.path} is not as it was written: {why}")


def write_manifest(connection: Any, manifest: Manifest) -> None:
    """Put the manifest into a file."""
    known = manifest.as_dict() | {"format": FORMAT}
    for name in ("path", "recorded"):
        del known[name]
    connection.executemany(
        "INSERT INTO manifest VALUES (?, ?)", [(k, str(v)) for k, v in known.items()]
    )


def insert(connection: Any, table: str, rows: Sequence[Any]) -> None:
    """Put rows into a file."""
    if rows:
        marks = ", ".join("?" * len(rows[0]))
        connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)


def remove(path: Path) -> None:
    """Remove a file that was not finished."""
    with suppress(OSError):
        path.unlink()
