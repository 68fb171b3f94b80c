"""Writes a checkpoint: first a part beside its place, then its name, or nothing at all."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from orchd.errors import StateUnreadable
from orchd.maintenance import checkpoint_file as file
from orchd.maintenance.checkpoint_file import Digest, Manifest, verify
from orchd.maintenance.errors import CheckpointRefused
from orchd.maintenance.progress import Progress
from orchd.maintenance.release import release
from orchd.system import System, own_pid, process_start
from orchd_eventstore import Erasure, EventStore, Head, RecordedEvent
from orchd_eventstore.sqlite import driver
from orchd_eventstore.verification import CommitRow, Walk, read_commits

_REFERENCE = re.compile(r'"\$blob":"([0-9a-f]{64})"')
_PART = ".part"


ERASURE_POSITIONS = 100_000
"""Positions of the log that one search for erasures looks at."""
TRIES = 5
"""How often a copy is begun anew because something was erased meanwhile."""


class _Overtaken(Exception):
    """Something was erased while the log was copied; only a later end of it says so."""


def write(store: EventStore, place: Path, system: System, progress: Progress) -> Manifest:
    """Copy the log up to its present end into a new file, and verify the copy.

    Raises:
        CheckpointRefused: there is a file at `place` already.
        StateUnreadable: the log is not as it was written, or the file cannot be made.
    """
    _remove_stale_parts(place)
    part = place.with_name(f"{place.name}.{own_pid()}{_PART}")
    try:
        with _explained(place):
            manifest = _write_part(store, part, place, system, progress)
            verify(part, progress=progress)
            _give_name(part, place)
            return msgspec.structs.replace(manifest, path=str(place))
    finally:
        with suppress(OSError):
            part.unlink()


@contextmanager
def _explained(place: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise CheckpointRefused(f"{place} exists already; name another file") from error
    except OSError as error:
        raise StateUnreadable(f"cannot write {place}: {error.strerror}") from error
    except driver().Error as error:
        raise StateUnreadable(f"cannot write {place}: {error}") from error


def _write_part(
    store: EventStore, part: Path, place: Path, system: System, progress: Progress
) -> Manifest:
    for _ in range(TRIES):
        try:
            return _Copy(store, part, place, progress).make(store.head(), system)
        except _Overtaken:
            part.unlink()
    raise StateUnreadable("the log is being erased from all the time; try again later")


def _give_name(part: Path, place: Path) -> None:
    """Give the finished file its name; nobody's file is replaced."""
    try:
        os.link(part, place)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links: hold the name with an empty file of our own.
        os.close(os.open(place, os.O_CREAT | os.O_EXCL, 0o600))
        os.replace(part, place)
    directory = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _remove_stale_parts(place: Path) -> None:
    """Remove what killed processes left of checkpoints with this name."""
    for part in stale_parts(place.parent):
        if part.name.startswith(f"{place.name}."):
            with suppress(OSError):
                part.unlink()


def stale_parts(directory: Path) -> Iterator[Path]:
    """Yield what killed processes left of checkpoints in a directory."""
    for part in sorted(directory.glob(f"*.*{_PART}")):
        pid = part.name.removesuffix(_PART).rpartition(".")[2]
        if pid.isdigit() and process_start(int(pid)) is None:
            yield part


class _Copy:
    """One attempt to copy a log into a file."""

    def __init__(
        self, store: EventStore, part: Path, place: Path, progress: Progress
    ) -> None:
        self._store = store
        self._part = part
        self._place = place
        self._progress = progress
        self._target: Any = None

    def make(self, head: Head, system: System) -> Manifest:
        """Copy everything up to the head."""
        os.close(os.open(self._part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with closing(file.connect(self._part, "rwc")) as target:
            self._target = target
            # A part that was not finished is thrown away, so it needs no journal.
            target.execute("PRAGMA journal_mode = OFF")
            target.execute("PRAGMA synchronous = FULL")
            target.execute("BEGIN")
            for table, columns in file.TABLES.items():
                target.execute(f"CREATE TABLE {table} ({columns})")
            target.execute("CREATE TEMP TABLE wanted (hash TEXT PRIMARY KEY)")
            commits = self._copy_log(head)
            manifest = self._manifest(head, commits, system)
            target.execute("COMMIT")
            return manifest

    def _copy_log(self, head: Head) -> int:
        walk = Walk(self._read_events, self._store.erasures, head.position)
        for link in walk.links(read_commits(self._store, head.position)):
            if link.why_bad is not None:
                raise self._damaged(link.commit, link.why_bad, head)
            self._insert("commits", [link.commit])
            self._insert("events", map(msgspec.structs.astuple, link.events))
            self._want_blobs(link.events)
            self._progress("events", walk.position, head.position)
        if (walk.position, walk.hash) != (head.position, head.hash):
            raise StateUnreadable(
                f"the log is damaged: it ends at position {walk.position}, its head says "
                f"{head.position}; see `orchd log verify`"
            )
        return walk.commits

    def _damaged(self, commit: CommitRow, why: str, head: Head) -> Exception:
        first = commit.last_position - commit.events
        for one in self._store.erasures(first, commit.last_position):
            if one.erased_by > head.position:
                return _Overtaken()
        return StateUnreadable(
            f"the log is damaged: commit {commit.command_id}: {why}; see `orchd log verify`"
        )

    def _read_events(self, after: int, up_to: int) -> list[RecordedEvent]:
        return self._store.read_all(after=after, up_to=up_to, limit=up_to - after)

    def _insert(self, table: str, rows: Iterable[Sequence[Any]]) -> None:
        marks = ", ".join("?" * (file.TABLES[table].count(",") + 1))
        self._write(f"INSERT INTO {table} VALUES ({marks})", rows)

    def _write(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        # Here, because the store would take the driver's errors for its own.
        with _explained(self._place):
            self._target.executemany(statement, rows)

    # --- what the events refer to -----------------------------------------------------

    def _want_blobs(self, events: Iterable[RecordedEvent]) -> None:
        for event in events:
            if '"$blob"' in event.data:
                names = [(name,) for name in _REFERENCE.findall(event.data)]
                self._write("INSERT OR IGNORE INTO wanted VALUES (?)", names)

    def _manifest(self, head: Head, commits: int, system: System) -> Manifest:
        erasures = self._copy_erasures(head)
        blobs = self._copy_blobs()
        manifest = Manifest(
            path=str(self._part),
            position=head.position,
            hash=head.hash,
            digest="",
            commits=commits,
            events=head.position,
            blobs=blobs,
            erasures=erasures,
            created_at=system.now(),
            release=release(),
            format=file.FORMAT_NUMBER,
        )
        manifest = msgspec.structs.replace(manifest, digest=self._digest(manifest))
        known = manifest.as_dict()
        known["format"] = f"{file.FORMAT_NAME} {file.FORMAT_NUMBER}"
        stored = [(k, str(v)) for k, v in known.items() if k not in ("path", "recorded")]
        self._insert("manifest", stored)
        return manifest

    def _digest(self, manifest: Manifest) -> str:
        digest = Digest(file.FORMAT_NUMBER)
        digest.manifest(manifest.as_dict())
        query = "SELECT hash, size, encoding FROM blobs ORDER BY hash"
        for name, size, encoding in self._target.execute(query):
            digest.blob(name, size, encoding)
        for row in self._target.execute("SELECT * FROM erasures ORDER BY position"):
            names = Erasure.__struct_fields__
            digest.erasure(Erasure(**dict(zip(names, row, strict=True))))
        return digest.text()

    def _copy_erasures(self, head: Head) -> int:
        count = 0
        for start in range(0, head.position, ERASURE_POSITIONS):
            stop = min(head.position, start + ERASURE_POSITIONS)
            # What was announced later was not erased yet where this copy ends.
            found = [
                one
                for one in self._store.erasures(start, stop)
                if one.erased_by <= head.position
            ]
            self._insert("erasures", map(msgspec.structs.astuple, found))
            count += len(found)
        return count

    def _copy_blobs(self) -> int:
        count = 0
        # One at a time: a body may be as large as an executor's output.
        names = self._target.execute("SELECT hash FROM wanted ORDER BY hash")
        for (name,) in names:
            row = self._blob(name)
            if row is not None:
                self._insert("blobs", [row])
                count += 1
        return count

    def _blob(self, name: str) -> tuple[str, int, str, bytes] | None:
        found = self._store.stored_blob(name)
        if found is None:
            return None
        _, size, _, body = found
        if hashlib.sha256(body).hexdigest() != name or len(body) != size:
            raise StateUnreadable(f"the body {name} is damaged; see `orchd doctor`")
        return found
