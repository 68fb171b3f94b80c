"""Lists of tasks, newest first, in pages."""

from __future__ import annotations

from collections.abc import Iterable

from orchd.ledger.port import TaskFilter, TaskPage
from orchd.tasks.state import TaskState


def page(
    tasks: Iterable[TaskState], wanted: TaskFilter, limit: int, cursor: str | None
) -> TaskPage:
    """Return a page; `ValueError` for a cursor that none gave."""
    before = None if cursor is None else _read_cursor(cursor)
    found = sorted((s for s in tasks if _matches(s, wanted)), key=_place, reverse=True)
    if before is not None:
        found = [state for state in found if _place(state) < before]
    more = len(found) > limit > 0
    shown = tuple(found[:limit])
    return TaskPage(tasks=shown, next_cursor=_cursor(shown[-1]) if more else None)


def _place(state: TaskState) -> tuple[int, str]:
    return (state.created_at, state.id)


def _cursor(state: TaskState) -> str:
    return f"{state.created_at}:{state.id}"


def _read_cursor(cursor: str) -> tuple[int, str]:
    created_at, colon, task_id = cursor.partition(":")
    if not colon or not created_at.isdigit():
        raise ValueError(f"{cursor!r} is no cursor of a list of tasks")
    return int(created_at), task_id


def _matches(state: TaskState, wanted: TaskFilter) -> bool:
    return (
        (not wanted.statuses or state.status.value in wanted.statuses)
        and wanted.queue in (None, state.queue)
        and wanted.executor in (None, state.executor)
        and wanted.error_class in (None, state.error_class)
        and (wanted.since is None or state.created_at >= wanted.since)
        and (wanted.updated_before is None or state.updated_at < wanted.updated_before)
    )
