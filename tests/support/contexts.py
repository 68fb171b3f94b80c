"""Run contexts for tests that drive executors and verifiers directly."""

from typing import Any

from orchd.executors.port import RunContext


def run_context(**changes: Any) -> RunContext:
    """Return the context of a first run of task `t`, with some fields changed."""
    fields: dict[str, Any] = {
        "task_id": "t",
        "run": 1,
        "attempt": 1,
        "max_attempts": 3,
        "round": 0,
        "queue": "default",
        "token": 3,
        "idempotency_key": "t:0",
        "feedback": None,
        "deadline": None,
        "description": "one two three",
    }
    return RunContext(**{**fields, **changes})
