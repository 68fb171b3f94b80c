"""Tells the log's events as a story, one line each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from orchd.ledger.port import LogEntry
from orchd_ops.plain_text import clean

Data = Mapping[str, Any]
_NAME_WIDTH = 9


def tell(entry: LogEntry) -> str | None:
    """Return the line for an event, or None for one that tells nothing new."""
    teller = _TELLERS.get(entry.type)
    if teller is None:
        return None
    sentence = teller(json.loads(entry.data))
    # A stream is named after its kind: task-<id>, breaker-<name>.
    kind, _, name = entry.stream.partition("-")
    shown = name if kind == "task" else kind
    return f"{entry.position:>4}  {clean(shown):<{_NAME_WIDTH}}  {clean(sentence)}"


def _started(data: Data) -> str:
    if data.get("phase") == "verify":
        return f"[{data['attempt']}] verifying the stored result"
    return f"[{data['attempt']}] starting"


def _retried(data: Data) -> str:
    why = data.get("feedback") or data.get("error") or data.get("error_class")
    return f"↻ will retry: {why}"


def _failed(data: Data) -> str:
    return f"✗ failed for good, now a dead letter: {data.get('error')}"


def _released(data: Data) -> str:
    because = {"later": "the service asks to come back later"}
    reason = str(data.get("reason"))
    return f"… given back uncharged: {because.get(reason, reason)}"


def _verified(data: Data) -> str:
    verdict = "passed" if data.get("passed") else "refused"
    return f"{data.get('verifier')} {verdict}"


_TELLERS: dict[str, Callable[[Data], str]] = {
    "task.submitted": lambda data: f"submitted to {data['executor']}",
    "task.started": _started,
    "task.verified": _verified,
    "task.retried": _retried,
    "task.completed": lambda data: "✓ completed",
    "task.failed": _failed,
    "task.released": _released,
    "breaker.opened": lambda data: "⚡ open: the service fails, tasks wait uncharged",
    "breaker.half_opened": lambda data: "⚡ half-open: one task probes the service",
    "breaker.closed": lambda data: "⚡ closed: the service is back",
}
