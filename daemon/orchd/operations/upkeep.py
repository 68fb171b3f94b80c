"""What the command line asks of the daemon that has a SQLite state open.

Only that daemon may write there. So whoever looks after the state beside it reads the file
and hands in what is to be written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec

from orchd.daemons import CheckpointCreated
from orchd.ledger.port import (
    Acted,
    ActOnTask,
    Ledger,
    LedgerUnavailable,
    Origin,
    RecordDaemon,
    Recorded,
)
from orchd.operations.errors import Conflict, Fault, NotFound, invalid
from orchd.operations.intake import Caller, Committer
from orchd.operations.json_text import canonical_json, shorten
from orchd.operations.names import is_id
from orchd.system import System
from orchd.tasks.commands import Erase
from orchd.tasks.state import TaskState

if TYPE_CHECKING:
    from orchd.maintenance.erasing import Done, Prepared
    from orchd_eventstore import EventStore

Result = TypeVar("Result")

MENDED_KEYS_MAX = 1_000
ERASE_TRIES = 5
MAINTENANCE = "maintenance"
"""The worker in whose stream checkpoints are recorded."""

_Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]


class Mending(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What to mend: rows by their keys, or with `counters` all counters."""

    table: Literal["tasks", "queues", "breakers", "counters"]
    keys: Annotated[list[str], msgspec.Meta(max_length=MENDED_KEYS_MAX)] = []


class Mended(msgspec.Struct, frozen=True, kw_only=True):
    """What could not be mended now; try again once the other rows are mended."""

    left: list[str]


class CheckpointNote(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A checkpoint that somebody made of this log."""

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    position: Annotated[int, msgspec.Meta(ge=0)]
    digest: _Digest


class Noted(msgspec.Struct, frozen=True, kw_only=True):
    """Where the log says it now."""

    position: int


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """What was erased of a task; nothing when everything had been before."""

    id: str
    status: str
    events: int
    """Events whose data were replaced."""
    bodies: int
    """Large bodies that no other task had."""


class Upkeep:
    """See the module; every method may raise `LedgerUnavailable`."""

    def __init__(self, ledger: Ledger, commit: Committer, system: System) -> None:
        self._ledger = ledger
        self._commit = commit
        self._system = system

    async def mend(self, body: Any) -> Mended:
        """Make rows, or all counters, what the log says.

        Raises:
            Invalid: the body is no `Mending`.
            Conflict: there is no log to mend from, or it cannot be folded.
        """
        wanted = _read(body, Mending)
        left = await self._in_thread(_mend, self._store(), self._system, wanted)
        return Mended(left=left)

    async def erase(self, task_id: str, caller: Caller, now: int) -> Erased:
        """Erase the bodies of a finished task; again changes nothing more.

        Raises:
            NotFound: there is no such task.
            Conflict: it is not finished, moves, or its events cannot be erased.
        """
        store = self._store()
        for _ in range(ERASE_TRIES):
            state = await self._ledger.task(task_id) if is_id(task_id) else None
            if state is None:
                raise NotFound(f"there is no task {shorten(task_id)!r}")
            if not state.is_terminal:
                raise Conflict(f"task {task_id} is {state.status.value}, not finished")
            prepared = await self._in_thread(_prepare, store, self._system, state)
            if not prepared.erased or await self._announced(
                state, prepared, caller.origin(), now
            ):
                done = await self._in_thread(_carry_out, store, task_id)
                return Erased(
                    id=task_id,
                    status=state.status.value,
                    events=done.events,
                    bodies=done.bodies,
                )
        raise Conflict(f"task {task_id} moves all the time")

    async def _announced(
        self, state: TaskState, prepared: Prepared, origin: Origin, now: int
    ) -> bool:
        command = Erase(now=now, version=prepared.version, erased=prepared.erased)
        request = ActOnTask(task_id=state.id, command=command, origin=origin)
        [outcome] = await self._commit([request])
        # A task that moved in between is looked at again.
        return isinstance(outcome, Acted)

    async def _in_thread(self, work: Callable[..., Result], *arguments: Any) -> Result:
        from orchd.errors import StateUnreadable
        from orchd_eventstore import StoreUnavailable

        try:
            return await asyncio.to_thread(work, *arguments)
        except StateUnreadable as error:
            raise Conflict(str(error)) from error
        except StoreUnavailable as error:
            raise LedgerUnavailable(str(error)) from error

    def _store(self) -> EventStore:
        store: EventStore | None = getattr(self._ledger, "store", None)
        if store is None:
            raise Conflict("this state has no log of its own")
        return store

    async def note_checkpoint(self, body: Any, caller: Caller, now: int) -> Noted:
        """Record in the log that a checkpoint was made; raises `Invalid`."""
        note = _read(body, CheckpointNote)
        event = CheckpointCreated(
            path=note.path, at_position=note.position, digest=note.digest
        )
        request = RecordDaemon(
            worker=MAINTENANCE, event=event, now=now, origin=caller.origin()
        )
        [outcome] = await self._commit([request])
        assert isinstance(outcome, Recorded)
        return Noted(position=outcome.position)


def _mend(store: EventStore, system: System, wanted: Mending) -> list[str]:
    from orchd.maintenance import mending

    kind = mending.kind_named(wanted.table)
    if kind is not None:
        return mending.mend_rows(store, system, kind, wanted.keys)
    mending.mend_counters(store, system)
    return []


def _prepare(store: EventStore, system: System, state: TaskState) -> Prepared:
    from orchd.maintenance import erasing

    return erasing.prepare(store, system, state)


def _carry_out(store: EventStore, task_id: str) -> Done:
    from orchd.maintenance import erasing

    return erasing.carry_out(store, task_id)


def _read(body: Any, kind: Any) -> Any:
    canonical_json(body)
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise invalid([Fault(field="", rule=str(error))]) from None
