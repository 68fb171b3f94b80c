"""The rows of tasks that were submitted, ran once and were completed: most of all tasks.

They follow from the three events in one step. What they are is said by
`orchd.tasks.folding` alone, and tests hold this to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from orchd.interfaces import TaskStatus
from orchd.ledger.rows import names_text
from orchd.tasks.events import TaskCompleted, TaskStarted, TaskSubmitted, decode_meta
from orchd.tasks.folding import labels_text, raw_text, split_body, split_payload
from orchd.tasks.state import Phase

SINGLE_RUN = ["task.submitted", "task.started", "task.completed"]
"""The types of such a task's events."""

# Looking up the member of an enumeration takes longer than most of what is done here.
_COMPLETED = TaskStatus.COMPLETED.value
_EXECUTE, _VERIFY = Phase.EXECUTE.value, Phase.VERIFY.value
_submitted = msgspec.json.Decoder(TaskSubmitted).decode
_started = msgspec.json.Decoder(TaskStarted).decode
_completed = msgspec.json.Decoder(TaskCompleted).decode


def single_run_values(task_id: str, history: Sequence[Any]) -> tuple[Any, ...]:
    """Return the values of the row in the order of `TASK_COLUMNS`.

    Args:
        history: the three events; see `orchd.maintenance.folding.Event`.

    Raises:
        ValueError: one of them is damaged.
    """
    first, second, third = history
    submitted, started, completed = (
        _submitted(first[3]),
        _started(second[3]),
        _completed(third[3]),
    )
    submission, _, end = (decode_meta(event[4]) for event in history)
    at = submission.at
    description, description_blob = split_body(submitted.description)
    payload, payload_blob = split_payload(submitted.payload)
    return (
        task_id,
        third[1],
        submitted.namespace,
        _COMPLETED,
        _VERIFY if started.phase == _VERIFY else _EXECUTE,
        submitted.queue,
        submitted.priority,
        submitted.lane,
        submitted.executor,
        names_text(submitted.verifiers),
        description,
        description_blob,
        payload,
        payload_blob,
        raw_text(submitted.metadata),
        labels_text(submitted.labels),
        submitted.parent_id,
        submitted.idempotency_key,
        submitted.body_hash,
        submission.traceparent,
        submitted.max_attempts,
        submitted.execute_timeout_seconds,
        submitted.verify_timeout_seconds,
        at,
        end.at,
        at if submitted.run_at is None else submitted.run_at,
        *_NOT_WAITING,
        1,
        started.run,
        started.attempt,
        *_NO_TROUBLE,
        names_text(completed.verifiers),
        *_NOT_RUNNING,
        *_result(completed),
        *_NO_ERROR,
        end.at,
    )


_NOT_WAITING = (None, None, None)
"""waiting_reason, waiting_until, waiting_ref."""
_NO_TROUBLE = (0, 0, 0)
"""crashes, deferrals, verify_errors."""
_NOT_RUNNING = (None, None, False, None, None, False)
"""token, worker, alone, started_at, deadline, cancel_requested."""
_NO_RESULT = (None, None, None, None)
"""result, result_blob, result_metadata, confidence."""
_NO_ERROR = (None, None, None, None)
"""error, error_class, fingerprint, feedback."""


def _result(completed: TaskCompleted) -> tuple[Any, ...]:
    if completed.result is None:
        return _NO_RESULT
    result, blob = split_body(completed.result)
    return result, blob, raw_text(completed.result_metadata), completed.confidence
