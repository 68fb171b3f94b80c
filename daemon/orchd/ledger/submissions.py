"""Submissions whose id or key may be taken already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchd.ledger.dialects import Dialect, Statement
from orchd.ledger.plan import resubmitted
from orchd.ledger.port import Outcome, SubmitTask
from orchd.ledger.rows import TASK_COLUMNS, Row, columns, task_state

_COLUMNS = columns(TASK_COLUMNS)
_BY_ID = f"SELECT {_COLUMNS} FROM tasks WHERE id = ANY(?)"
_BY_KEY = (
    f"SELECT {_COLUMNS} FROM tasks"
    " WHERE idempotency_key IS NOT NULL AND namespace = ANY(?) AND idempotency_key = ANY(?)"
)


def lookups(dialect: Dialect, requests: Iterable[SubmitTask]) -> list[Statement]:
    """Return the two statements that find what holds the requests' ids and keys."""
    ids: list[str] = []
    keys: list[str] = []
    spaces: set[str] = set()
    for request in requests:
        ids.append(request.task_id)
        submitted = request.command.submitted
        if submitted.idempotency_key is not None:
            keys.append(submitted.idempotency_key)
            spaces.add(submitted.namespace)
    by_key = (dialect.array(sorted(spaces)), dialect.array(keys))
    return [(_BY_ID, (dialect.array(ids),)), (_BY_KEY, by_key)]


class Taken:
    """The tasks that hold ids and keys which were asked for."""

    def __init__(self, by_id: Sequence[Row], by_key: Sequence[Row]) -> None:
        self._ids = {state.id: state for state in map(task_state, by_id)}
        self._keys = {
            (state.namespace, state.idempotency_key): state
            for state in map(task_state, by_key)
        }

    def outcome(self, request: SubmitTask) -> Outcome | None:
        """Return how a submission ends because of them; None when both are free."""
        state = self._ids.get(request.task_id)
        if state is not None:
            return resubmitted(request, state, "id_conflict")
        submitted = request.command.submitted
        state = self._keys.get((submitted.namespace, submitted.idempotency_key))
        if state is None or submitted.idempotency_key is None:
            return None
        return resubmitted(request, state, "key_conflict")
