"""The database and the machine below it: settings, damage, room, clocks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from orchd.ledger.opening import file_system
from orchd.ledger.urls import sqlite_path
from orchd.maintenance.findings import Examination, Finding, fail, ok, warn
from orchd.system import MICROSECONDS_PER_SECOND
from orchd_eventstore.sqlite import driver

SAFE_SQLITE = (3, 51, 3)
"""The first release whose WAL mode does not lose data when two connections write."""
PATCHED_SQLITE = {(3, 50): 7, (3, 44): 6}
"""Older series with the fix -> the first patch release that has it."""
DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
POSTGRESQL_MIN = 130_000
WAL_BYTES_MAX = 1024**3
FREE_BYTES_MIN = 64 * 1024**2
FREE_BYTES_WANTED = 1024**3
CLOCK_SECONDS_MAX = 5.0
"""How far this machine's clock may be from the database's before somebody is told."""


def database(examination: Examination) -> Iterator[Finding]:
    """Look at the database's release, its settings, and its pages."""
    if examination.reader.dialect.is_postgresql:
        yield from _postgresql(examination)
    else:
        yield from _sqlite(examination)


def _sqlite(examination: Examination) -> Iterator[Finding]:
    version = driver().sqlite_version
    if is_safe_sqlite(tuple(int(part) for part in version.split("."))):
        yield ok("database", f"SQLite {version}")
    else:
        yield warn(
            "database",
            f"SQLite {version} can corrupt a database that two programs write to",
            "install a release from 3.51.3 on; write through the daemon only",
        )
    with examination.reader.snapshot(patient=True) as snapshot:
        mode = snapshot.all("PRAGMA journal_mode")[0][0]
        problems = [row[0] for row in snapshot.all("PRAGMA quick_check(5)")]
    if mode == "wal":
        yield ok("database", "journal mode wal, every commit synchronised by the daemon")
    else:
        hint = "the next daemon, or any command that writes, sets it again"
        yield warn("database", f"journal mode is {mode}, not wal", hint)
    if problems == ["ok"]:
        yield ok("database", "no page of the file is damaged")
    else:
        yield fail(
            "database",
            "the file is damaged: " + "; ".join(problems),
            "restore a checkpoint into a new file, and look at the disk",
        )
    yield from _write_ahead_log(sqlite_path(examination.settings.database))


def _write_ahead_log(path: Path) -> Iterator[Finding]:
    log = path.with_name(f"{path.name}-wal")
    size = log.stat().st_size if log.exists() else 0
    if size > WAL_BYTES_MAX:
        yield warn(
            "database",
            f"the write-ahead log has grown to {_size(size)}",
            "somebody reads for a very long time: end that program",
        )


def is_safe_sqlite(version: tuple[int, ...]) -> bool:
    """Tell whether a SQLite release has the fix of its WAL mode."""
    patched = PATCHED_SQLITE.get((version[0], version[1]))
    if patched is not None and version[2] >= patched:
        return True
    return version >= SAFE_SQLITE or version < (3, 7, 0)


def _postgresql(examination: Examination) -> Iterator[Finding]:
    with examination.reader.snapshot() as snapshot:
        release = snapshot.all("SHOW server_version")[0][0]
        number = int(snapshot.all("SHOW server_version_num")[0][0])
        encoding = snapshot.all("SHOW server_encoding")[0][0]
        checksums = snapshot.all("SHOW data_checksums")[0][0]
        found = {name: snapshot.all(f"SHOW {name}")[0][0] for name in DURABLE}
    if number >= POSTGRESQL_MIN:
        yield ok("database", f"PostgreSQL {release}")
    else:
        yield warn("database", f"PostgreSQL {release} is older than any that is tested")
    for name, value in found.items():
        if value == DURABLE[name]:
            yield ok("database", f"{name} is {value}")
        else:
            yield fail(
                "database",
                f"{name} is {value}: what was acknowledged can be lost",
                f"set {name} = {DURABLE[name]} in postgresql.conf",
            )
    if encoding != "UTF8":
        hint = "move to a database with the encoding UTF8: create a checkpoint, restore it"
        yield fail("database", f"the encoding is {encoding}", hint)
    off = "off; `pg_checksums --enable` lets the server notice damage on disk"
    yield ok("database", f"data checksums are {'on' if checksums == 'on' else off}")


def disk(examination: Examination) -> Iterator[Finding]:
    """Look for room where a SQLite state is, and at what it lies on."""
    if examination.reader.dialect.is_postgresql:
        return
    directory = sqlite_path(examination.settings.database).parent
    found = os.statvfs(directory)
    free = found.f_bavail * found.f_frsize
    kind = file_system(directory) or "unknown"
    detail = f"{_size(free)} free in {directory} ({kind})"
    if free < FREE_BYTES_MIN:
        yield fail("disk", detail, "make room: nothing is accepted when the disk is full")
    elif free < FREE_BYTES_WANTED:
        yield warn("disk", detail, "make room before the disk is full")
    else:
        yield ok("disk", detail)


def clock(examination: Examination) -> Iterator[Finding]:
    """Compare this machine's clock, the database's and those of the leases."""
    reader = examination.reader
    before, there = examination.system.now(), reader.store.now()
    after = examination.system.now()
    apart = max(before - there, there - after, 0) / MICROSECONDS_PER_SECOND
    with reader.snapshot() as snapshot:
        ahead = snapshot.all(
            "SELECT id FROM workers WHERE renewed_at > ? AND NOT fenced",
            (there + round(CLOCK_SECONDS_MAX * MICROSECONDS_PER_SECOND),),
        )
        recorded = reader.store.head().recorded_at or 0
    if apart > CLOCK_SECONDS_MAX:
        hint = "synchronise the clocks (NTP): delays and leases go by the database's"
        yield warn("clock", f"this machine is {apart:.1f} s off the database", hint)
    if recorded > there + round(CLOCK_SECONDS_MAX * MICROSECONDS_PER_SECOND):
        hint = "new events get the last one's time until the clock has caught up"
        yield warn("clock", "the log's last event lies in the future", hint)
    for (worker,) in ahead:
        hint = "the clock went back: its tasks are taken over only when it has caught up"
        yield warn("clock", f"the lease of worker {worker} lies in the future", hint)
    if apart <= CLOCK_SECONDS_MAX and not ahead:
        yield ok("clock", f"within {max(apart, 0.1):.1f} s of the database's")


def _size(size_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"
