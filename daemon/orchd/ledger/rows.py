"""States as rows, and rows as states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from orchd.breakers import BreakerState, Position
from orchd.interfaces import TaskStatus
from orchd.ledger.port import LogEntry
from orchd.queues import QueueState
from orchd.tasks.state import Phase, TaskState
from orchd_eventstore import RecordedEvent

TASK_COLUMNS = TaskState.__struct_fields__
QUEUE_COLUMNS = QueueState.__struct_fields__
BREAKER_COLUMNS = BreakerState.__struct_fields__
Row = Sequence[Any]

_NAMES = msgspec.json.Decoder(tuple[str, ...])
_encode = msgspec.json.Encoder().encode
_STATUSES = {status.value: status for status in TaskStatus}
_PHASES = {phase.value: phase for phase in Phase}


def columns(names: Sequence[str], table: str = "") -> str:
    """Return column names for a statement, with their table where one is given."""
    prefix = f"{table}." if table else ""
    return ", ".join(f'{prefix}"{name}"' for name in names)


def names_text(names: Sequence[str]) -> str:
    """Return names as the JSON text that a column holds."""
    return _encode(names).decode() if names else "[]"


def names_of(text: str) -> tuple[str, ...]:
    """Return the names that `names_text` wrote."""
    return () if text == "[]" else _NAMES.decode(text)


def task_row(state: TaskState) -> dict[str, Any]:
    """Return the row of table `tasks` for a state."""
    row: dict[str, Any] = msgspec.structs.asdict(state)
    row["status"] = state.status.value
    row["phase"] = state.phase.value
    row["verifiers"] = names_text(state.verifiers)
    row["passed_verifiers"] = names_text(state.passed_verifiers)
    return row


def task_state(row: Row) -> TaskState:
    """Return the state of a row with `TASK_COLUMNS`."""
    values = dict(zip(TASK_COLUMNS, row, strict=True))
    values["status"] = _STATUSES[values["status"]]
    values["phase"] = _PHASES[values["phase"]]
    values["verifiers"] = names_of(values["verifiers"])
    values["passed_verifiers"] = names_of(values["passed_verifiers"])
    values["alone"] = bool(values["alone"])
    values["cancel_requested"] = bool(values["cancel_requested"])
    return TaskState(**values)


def queue_row(state: QueueState) -> dict[str, Any]:
    """Return the row of table `queues` for a state."""
    return {name: getattr(state, name) for name in QUEUE_COLUMNS}


def queue_state(row: Row) -> QueueState:
    """Return the state of a row with `QUEUE_COLUMNS`."""
    values = dict(zip(QUEUE_COLUMNS, row, strict=True))
    return QueueState(**(values | {"paused": bool(values["paused"])}))


def breaker_row(state: BreakerState) -> dict[str, Any]:
    """Return the row of table `breakers` for a state."""
    row = {name: getattr(state, name) for name in BREAKER_COLUMNS}
    return row | {"position": state.position.value}


def breaker_state(row: Row) -> BreakerState:
    """Return the state of a row with `BREAKER_COLUMNS`."""
    values = dict(zip(BREAKER_COLUMNS, row, strict=True))
    return BreakerState(**(values | {"position": Position(values["position"])}))


def log_entry(event: RecordedEvent) -> LogEntry:
    """Return a stored event as the port gives it."""
    return LogEntry(
        position=event.position,
        stream=event.stream,
        version=event.version,
        type=event.type,
        data=event.data,
        meta=event.meta,
        recorded_at=event.recorded_at,
    )
