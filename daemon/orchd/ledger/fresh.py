"""What a claim on PostgreSQL tells of a task.

Nearly every task that is claimed has never run. Most of its columns hold what they hold in
every such task, and to tell them would take the server longer than to start it.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from orchd.interfaces import TaskStatus
from orchd.ledger.rows import TASK_COLUMNS, Row, task_state
from orchd.tasks.state import Phase, TaskDraft, TaskState

_DEFAULTS = TaskDraft.__struct_defaults__
FRESH_ROW: dict[str, Any] = {
    "namespace": "default",
    "status": TaskStatus.PENDING.value,
    "phase": Phase.EXECUTE.value,
    "lane": None,
    "description_blob": None,
    "payload_blob": None,
    "labels": None,
    "parent_id": None,
    **dict(zip(TASK_COLUMNS[-len(_DEFAULTS) :], _DEFAULTS, strict=True)),
    "passed_verifiers": "[]",
}
"""What the columns hold that are not told of a fresh task."""
TOLD_COLUMNS = tuple(name for name in TASK_COLUMNS if name not in FRESH_ROW)
"""The columns of a fresh task that are told, in order."""

_FRESH_VALUES = tuple(FRESH_ROW.values())
_whole = itemgetter(*map([*TOLD_COLUMNS, *FRESH_ROW].index, TASK_COLUMNS))


def claimed_state(row: Row) -> TaskState:
    """Return the state of a row that has all columns, or only those that are told."""
    is_fresh = len(row) == len(TOLD_COLUMNS)
    return task_state(_whole((*row, *_FRESH_VALUES)) if is_fresh else row)
