"""Asks the daemon that has a SQLite state open to write what a command found out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from orchd.client import Client
from orchd.ledger.urls import is_sqlite
from orchd.maintenance.checkpoint_file import Manifest
from orchd.maintenance.folding import Kind
from orchd_ops.cli.invocation import Invocation
from orchd_ops.cli.paging import path
from orchd_ops.cli.reach import daemon_transport

MEND_SECONDS = 120.0


class DaemonMender:
    """Mends through a daemon; see `orchd.maintenance.mending.Mender`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def mend_rows(self, kind: Kind, keys: Sequence[str]) -> list[str]:
        left: list[str] = self._mend({"table": kind.table, "keys": list(keys)})
        return left

    def mend_counters(self) -> None:
        self._mend({"table": "counters"})

    def erase(self, task_id: str) -> None:
        """Finish erasing a task."""
        target = path("tasks", task_id, "erase")
        self._client.request("POST", target, timeout_seconds=MEND_SECONDS, repeat=True)

    def _mend(self, wanted: dict[str, object]) -> list[str]:
        answer = self._client.request(
            "POST", "/v1/upkeep/mend", wanted, timeout_seconds=MEND_SECONDS, repeat=True
        )
        left: list[str] = answer["left"]
        return left


@contextmanager
def sqlite_daemon(call: Invocation) -> Iterator[Client | None]:
    """Lend a client of the daemon that has the SQLite state open; None without one."""
    found = is_sqlite(call.loaded.settings.database)
    transport = daemon_transport(call) if found else None
    if transport is None:
        yield None
        return
    client = Client(transport=transport)
    try:
        yield client
    finally:
        client.close()


def checkpoint_note(call: Invocation) -> Callable[[Manifest], bool] | None:
    """Return how the daemon of a SQLite state records a checkpoint; None without one."""
    with sqlite_daemon(call) as client:
        if client is None:
            return None

    def note(manifest: Manifest) -> bool:
        # The copy may have taken long: whoever writes now is asked now.
        with sqlite_daemon(call) as daemon:
            if daemon is None:
                return False
            _note(daemon, manifest)
            return True

    return note


def _note(client: Client, manifest: Manifest) -> None:
    note = {
        "path": manifest.path,
        "position": manifest.position,
        "digest": manifest.digest,
    }
    client.request("POST", "/v1/upkeep/checkpoints", note)
