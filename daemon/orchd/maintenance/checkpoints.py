"""Checkpoints: verified copies of the log in one file, and states restored from them.

A checkpoint never outranks a log: it is only restored where there is no event yet, and
everything besides the log is built again from it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from orchd.config import places
from orchd.daemons import CheckpointCreated
from orchd.errors import OrchdError, StateLocked, StateUnreadable
from orchd.ledger.urls import canonical_url, is_sqlite, sqlite_path
from orchd.maintenance import checkpoint_file as file
from orchd.maintenance.checkpoint_file import Manifest, verify
from orchd.maintenance.checkpoint_writer import write
from orchd.maintenance.errors import CheckpointInvalid, CheckpointRefused
from orchd.maintenance.opening import reading, writing
from orchd.maintenance.progress import Progress, silent
from orchd.maintenance.restoring import fill
from orchd.maintenance.verifying import verify_log
from orchd.system import System
from orchd.tasks.events import SCHEMA_VERSION, EventMeta, encode
from orchd_eventstore import ANY_VERSION, Append, NewEvent
from orchd_eventstore.sqlite import driver

SUFFIX = ".orchd"
STREAM = "daemon-maintenance"
"""Where `checkpoint.created` is recorded."""

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

Note = Callable[[Manifest], bool]
"""Records in the log that a checkpoint was made; returns whether it could."""


def create(
    url: str,
    path: str | Path | None = None,
    *,
    system: System,
    progress: Progress | None = None,
    note: Note | None = None,
) -> Manifest:
    """Copy the log up to its present end into a file, and verify the copy.

    May run beside a daemon.

    Args:
        note: by default this process records the checkpoint, if it may write: not in a
            SQLite state that a daemon has open. The manifest's `recorded` tells.

    Raises:
        CheckpointRefused: there is a file at `path` already.
        StateUnreadable: the log is not as it was written, or the file cannot be made.
    """
    with reading(url, system=system) as reader:
        place = _place(url, path, reader.store.head().position)
        manifest = write(reader.store, place, system, progress or silent)
    recorded = note(manifest) if note is not None else _record(url, manifest, system)
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
    """Make an empty or absent state the one that a checkpoint holds, all or nothing.

    Raises:
        CheckpointInvalid: the checkpoint is not as it was written.
        CheckpointRefused: the state holds events already.
        StateLocked: a daemon has the SQLite state open.
    """
    tell = progress or silent
    manifest = verify(path, progress=progress)
    with writing(url, system=system, create=True) as store:
        with closing(file.connect(Path(path), "ro")) as connection:
            source = file.CheckpointReader(connection, Path(path))
            if source.manifest() != manifest:
                raise CheckpointInvalid(f"{path} was changed while it was read")
            fill(store, source, manifest, tell)
    # How far somebody replayed another log in this place says nothing of this one.
    places.replay_record(url, os.environ).unlink(missing_ok=True)
    verdict = verify_log(url, system=system, progress=progress)
    if not verdict.ok or verdict.hash != manifest.hash:
        raise StateUnreadable(
            f"the restored log is not that of the checkpoint: {verdict.problem}"
        )
    return manifest
