"""Checkpoints: verified copies of the log in one file, and states restored from them.

A checkpoint never outranks a log: it is only restored where there is no event yet, and
everything besides the log is built again from it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from orchd.daemons import CheckpointCreated
from orchd.errors import OrchdError, StateLocked, StateUnreadable
from orchd.ledger.urls import canonical_url, is_sqlite, sqlite_path
from orchd.maintenance import checkpoint_file as file
from orchd.maintenance.checkpoint_file import Manifest, verify
from orchd.maintenance.errors import CheckpointRefused
from orchd.maintenance.opening import reading, writing
from orchd.maintenance.progress import Progress, silent
from orchd.maintenance.replay import mend
from orchd.maintenance.restoring import fill
from orchd.maintenance.verifying import verify_log
from orchd.system import System
from orchd.tasks.events import SCHEMA_VERSION, EventMeta, encode
from orchd_eventstore import ANY_VERSION, Append, EventStore, NewEvent, RecordedEvent
from orchd_eventstore import schema as store_schema
from orchd_eventstore.chain import commit_hash
from orchd_eventstore.schema import GENESIS_HASH
from orchd_eventstore.sqlite import driver

SUFFIX = ".orchd"
STREAM = "daemon-maintenance"
"""Where `checkpoint.created` is recorded."""
PAGE_COMMITS = 500

__all__ = [
    "CheckpointView",
    "Manifest",
    "create",
    "default_directory",
    "list_checkpoints",
    "restore",
    "verify",
]


class CheckpointView(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint that the log mentions, or that lies in the usual place."""

    path: str
    position: int
    created_at: int
    digest: str
    present: bool
    """Whether the file is there."""
    recorded: bool
    """Whether the log mentions it."""

    def as_dict(self) -> dict[str, Any]:
        """Return the view as a JSON object."""
        return msgspec.structs.asdict(self)


def default_directory(url: str) -> Path:
    """Return where a state's checkpoints lie unless somebody names another place."""
    if is_sqlite(url):
        path = sqlite_path(url)
        return path.with_name(f"{path.name}.checkpoints")
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    name = hashlib.sha256(canonical_url(url).encode()).hexdigest()[:16]
    return Path(home) / "orchd" / "checkpoints" / name


# --- making one -----------------------------------------------------------------------


def create(
    url: str,
    path: str | Path | None = None,
    *,
    system: System,
    progress: Progress | None = None,
) -> Manifest:
    """Copy the log up to its present end into a file, and verify the copy.

    May run beside a daemon. On SQLite the making is then not recorded in the log, because
    only the daemon may write; the manifest's `recorded` tells.

    Raises:
        CheckpointRefused: there is a file at `path` already.
        StateUnreadable: the log is not as it was written, or the file cannot be made.
    """
    with reading(url, system=system) as reader:
        position = reader.store.head().position
        place = _place(url, path, position)
        part = place.with_name(f"{place.name}.part")
        try:
            _write(reader.store, position, part, system, progress or silent)
            verify(part)
            # Nobody's file is replaced, not even one that appeared meanwhile.
            os.link(part, place)
        except FileExistsError as error:
            raise CheckpointRefused(f"{place} exists already; name another file") from error
        except OSError as error:
            raise StateUnreadable(f"cannot write {place}: {error.strerror}") from error
        finally:
            file.remove(part)
    manifest = verify(place)
    recorded = _record(url, manifest, system)
    return msgspec.structs.replace(manifest, recorded=recorded)


def _place(url: str, path: str | Path | None, position: int) -> Path:
    place = default_directory(url) / f"checkpoint-{position}{SUFFIX}"
    if path is not None:
        place = Path(path).absolute()
    if place.exists():
        raise CheckpointRefused(f"{place} exists already; name another file")
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateUnreadable(f"cannot make {place.parent}: {error.strerror}") from error
    return place


def _write(
    store: EventStore, position: int, part: Path, system: System, progress: Progress
) -> None:
    file.remove(part)
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    with closing(file.connect(part, "rwc")) as target:
        target.execute("PRAGMA synchronous = FULL")
        target.execute("BEGIN")
        for table, columns in file.TABLES.items():
            target.execute(f"CREATE TABLE {table} ({columns})")
        chain, commits = _copy_log(store, position, target, progress)
        digest, blobs = _copy_blobs(store, target, chain)
        manifest = Manifest(
            path=str(part),
            position=position,
            hash=chain,
            digest=digest,
            commits=commits,
            events=position,
            blobs=blobs,
            created_at=system.now(),
            release=_release(),
        )
        file.write_manifest(target, manifest)
        target.execute("COMMIT")


def _copy_log(
    store: EventStore, position: int, target: Any, progress: Progress
) -> tuple[str, int]:
    reached, chain, commits = 0, GENESIS_HASH, 0
    for page in _pages_of_commits(store, position):
        events = store.read_all(after=reached, up_to=page[-1][0], limit=page[-1][0])
        file.insert(target, "events", [msgspec.structs.astuple(event) for event in events])
        file.insert(target, "commits", page)
        for commit in page:
            own = events[: commit[2]]
            del events[: commit[2]]
            chain = _checked(chain, commit, own)
        reached, commits = page[-1][0], commits + len(page)
        progress("events", reached, position)
    if reached != position:
        raise _damaged(f"its commits end at position {reached}, its head says {position}")
    return chain, commits


def _checked(chain: str, commit: file.Commit, events: list[RecordedEvent]) -> str:
    last, command_id, count, recorded_at, digest, rules = commit
    whole = len(events) == count and (not events or events[-1].position == last)
    if not whole or commit_hash(chain, command_id, recorded_at, events, rules) != digest:
        raise _damaged(f"commit {command_id} is not as it was written")
    return digest


def _damaged(why: str) -> StateUnreadable:
    return StateUnreadable(f"the log is damaged: {why}; see `orchd log verify`")


def _pages_of_commits(store: EventStore, up_to: int) -> Iterator[list[file.Commit]]:
    table, after = store_schema.commits, 0
    while True:
        query = (
            sa.select(
                table.c.last_position,
                table.c.command_id,
                table.c.events,
                table.c.recorded_at,
                table.c.hash,
                table.c.rules,
            )
            .where(table.c.last_position > after, table.c.last_position <= up_to)
            .order_by(table.c.last_position)
            .limit(PAGE_COMMITS)
        )
        with store.connect_reader() as connection:
            page = [(r[0], r[1], r[2], r[3], r[4], r[5]) for r in connection.execute(query)]
        if not page:
            return
        yield page
        after = page[-1][0]


def _copy_blobs(store: EventStore, target: Any, chain: str) -> tuple[str, int]:
    # One at a time: a body may be as large as an executor's output.
    table, digest, count, after = store_schema.blobs, file.Digest(chain), 0, ""
    while True:
        query = (
            sa.select(table.c.hash, table.c.size, table.c.encoding, table.c.body)
            .where(table.c.hash > after)
            .order_by(table.c.hash)
            .limit(1)
        )
        with store.connect_reader() as connection:
            row = connection.execute(query).first()
        if row is None:
            return digest.text(), count
        name, size, encoding, body = row
        file.insert(target, "blobs", [(name, size, encoding, bytes(body))])
        digest.add(name)
        count, after = count + 1, name


def _release() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("orchd")
    except PackageNotFoundError:
        return "unknown"


def _record(url: str, manifest: Manifest, system: System) -> bool:
    created = CheckpointCreated(
        path=manifest.path, at_position=manifest.position, digest=manifest.digest
    )
    meta = EventMeta(schema=SCHEMA_VERSION, at=system.now(), actor="cli")
    item = Append(
        stream=STREAM,
        expected_version=ANY_VERSION,
        events=[NewEvent("checkpoint.created", encode(created), encode(meta))],
        counters={"events/checkpoint.created": 1},
    )
    try:
        with writing(url, system=system) as store:
            store.append([item], command_id=system.new_id())
    except StateLocked:
        return False
    return True


# --- looking at them ------------------------------------------------------------------


def list_checkpoints(url: str, *, system: System) -> list[CheckpointView]:
    """Return the checkpoints in the usual place and those that the log mentions.

    Raises:
        StateMissing: there is no state.
    """
    views = {view.path: view for view in _lying(default_directory(url))}
    with reading(url, system=system) as reader:
        for event in reader.store.read_stream(STREAM):
            if event.type != "checkpoint.created":
                continue
            created = msgspec.json.decode(event.data, type=CheckpointCreated)
            views[created.path] = CheckpointView(
                path=created.path,
                position=created.at_position,
                created_at=event.recorded_at,
                digest=created.digest,
                present=Path(created.path).is_file(),
                recorded=True,
            )
    return sorted(views.values(), key=lambda view: (view.position, view.path))


def _lying(directory: Path) -> Iterator[CheckpointView]:
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        try:
            manifest = _peek(path)
        except OrchdError:
            continue
        yield CheckpointView(
            path=str(path),
            position=manifest.position,
            created_at=manifest.created_at,
            digest=manifest.digest,
            present=True,
            recorded=False,
        )


def _peek(path: Path) -> Manifest:
    try:
        with closing(file.connect(path, "ro")) as connection:
            return file.CheckpointReader(connection, path).manifest()
    except driver().Error as error:
        raise StateUnreadable(f"{path} cannot be read: {error}") from error


# --- restoring ------------------------------------------------------------------------


def restore(
    path: str | Path, url: str, *, system: System, progress: Progress | None = None
) -> Manifest:
    """Put a checkpoint's log into an empty or absent state, and rebuild everything else.

    Raises:
        CheckpointInvalid: the checkpoint is not as it was written.
        CheckpointRefused: the state holds events already.
        StateLocked: a daemon has the SQLite state open.
    """
    tell = progress or silent
    manifest = verify(path, progress=progress)
    with writing(url, system=system, create=True) as store:
        if store.head().position:
            raise CheckpointRefused(
                "the state holds events already, and a checkpoint never outranks a log; "
                "restore into an empty database"
            )
        with closing(file.connect(Path(path), "ro")) as connection:
            fill(store, file.CheckpointReader(connection, Path(path)), manifest, tell)
    for _ in mend(url, system=system, progress=progress):
        continue
    verdict = verify_log(url, system=system)
    if not verdict.ok or verdict.hash != manifest.hash:
        raise StateUnreadable(
            f"the restored log is not that of the checkpoint: {verdict.problem}"
        )
    return manifest
