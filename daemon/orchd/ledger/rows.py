"""States as rows, and rows as states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import compress
from operator import attrgetter, is_not, itemgetter
from typing import Any

import msgspec
from msgspec.structs import astuple

from orchd.breakers import BreakerState, Position
from orchd.interfaces import TaskStatus
from orchd.ledger.port import LogEntry
from orchd.queues import QueueState
from orchd.tasks.state import IMMUTABLE_FIELDS, Phase, TaskDraft, TaskState
from orchd_eventstore import RecordedEvent
from orchd_eventstore import Row as StoredRow

TASK_COLUMNS = TaskState.__struct_fields__
QUEUE_COLUMNS = QueueState.__struct_fields__
BREAKER_COLUMNS = BreakerState.__struct_fields__
Row = Sequence[Any]

_STATUS, _PHASE, _VERIFIERS, _PASSED, _ALONE, _CANCEL_REQUESTED = map(
    TASK_COLUMNS.index,
    ("status", "phase", "verifiers", "passed_verifiers", "alone", "cancel_requested"),
)

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
    return dict(zip(TASK_COLUMNS, task_values(state), strict=True))


def task_values(task: TaskDraft) -> tuple[Any, ...]:
    """Return the row of table `tasks` as its values in the order of `TASK_COLUMNS`."""
    values = list(astuple(task))
    for place, convert in _STORED:
        values[place] = convert(values[place])
    return tuple(values)


class TaskRow(StoredRow):
    """The row of table `tasks` for a state, column by column as it is asked for."""

    __slots__ = ("_state",)

    def __init__(self, state: TaskState) -> None:
        self._state = state

    def __getitem__(self, column: str) -> Any:
        value = getattr(self._state, column)
        stored = _CONVERSIONS.get(column)
        return value if stored is None else stored(value)

    def __iter__(self) -> Iterator[str]:
        return iter(TASK_COLUMNS)

    def __len__(self) -> int:
        return len(TASK_COLUMNS)

    def take(self, columns: tuple[str, ...]) -> Sequence[Any]:
        """Return the values of these columns, in order."""
        take, stored = _taker(columns)
        # Taking some out of all values is faster than asking for one after the other.
        values = list(take(astuple(self._state)))
        for place, convert in stored:
            values[place] = convert(values[place])
        return values


_PLACES = {name: place for place, name in enumerate(TASK_COLUMNS)}
_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    # The attribute behind an enumeration's `value`, which takes three times as long.
    "status": attrgetter("_value_"),
    "phase": attrgetter("_value_"),
    "verifiers": names_text,
    "passed_verifiers": names_text,
}
"""How the values of some columns are stored."""
_STORED = [(_PLACES[name], convert) for name, convert in _CONVERSIONS.items()]
_Taker = Callable[[tuple[Any, ...]], Sequence[Any]]


@lru_cache(maxsize=64)
def _taker(
    columns: tuple[str, ...],
) -> tuple[_Taker, list[tuple[int, Callable[[Any], Any]]]]:
    """Return what takes columns out of a state's values, and what converts some then."""
    places = [_PLACES[name] for name in columns]
    stored = [(places.index(n), convert) for n, convert in _STORED if n in places]
    if len(places) == 1:
        return lambda values: [values[places[0]]], stored
    return itemgetter(*places), stored


_MUTABLE = tuple(name for name in TASK_COLUMNS if name not in IMMUTABLE_FIELDS)
_take_mutable = itemgetter(*(_PLACES[name] for name in _MUTABLE))
_changes = lru_cache(maxsize=256)(lambda differs: frozenset(compress(_MUTABLE, differs)))


def changed_columns(before: TaskState, after: TaskState) -> frozenset[str]:
    """Return the columns in which the rows of two states of a task differ."""
    old, new = _take_mutable(astuple(before)), _take_mutable(astuple(after))
    return _changes(bytes(map(is_not, old, new)))


def task_state(row: Row) -> TaskState:
    """Return the state of a row with `TASK_COLUMNS`."""
    values = list(row)
    values[_STATUS] = _STATUSES[values[_STATUS]]
    values[_PHASE] = _PHASES[values[_PHASE]]
    values[_VERIFIERS] = names_of(values[_VERIFIERS])
    values[_PASSED] = names_of(values[_PASSED])
    values[_ALONE] = bool(values[_ALONE])
    values[_CANCEL_REQUESTED] = bool(values[_CANCEL_REQUESTED])
    return TaskState(*values)


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
