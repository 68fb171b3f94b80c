"""Which trace and which span: ids that every daemon derives alike from a task.

A task's runs may be spread over several daemons and over days. None of them keeps a span
open meanwhile; each derives the ids of the spans above its own.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from orchd.tasks.state import TaskState

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_SAMPLED = 1


class SpanPlace(NamedTuple):
    """A place in a trace: what a `traceparent` says."""

    trace_id: int
    span_id: int
    sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.sampled):02x}"


def parse(traceparent: str | None) -> SpanPlace | None:
    """Return what a W3C `traceparent` says; None for one that is missing or invalid."""
    found = _TRACEPARENT.match(traceparent or "")
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    if not trace_id or not span_id:
        return None
    return SpanPlace(trace_id, span_id, bool(flags & _SAMPLED))


def trace_id_of(state: TaskState) -> int:
    """Return the id of a task's trace: the submitter's, or one made from the task."""
    submitter = parse(state.traceparent)
    if submitter is not None:
        return submitter.trace_id
    return _number(16, "trace", state.id, state.created_at)


def task_span_id(task_id: str, task_round: int) -> int:
    """Return the id of the span `task` of one round."""
    return _number(8, "task", task_id, task_round)


def attempt_span_id(task_id: str, run: int) -> int:
    """Return the id of the span `attempt` of one run."""
    return _number(8, "attempt", task_id, run)


def execute_span_id(task_id: str, run: int) -> int:
    """Return the id of the span `execute` of one run."""
    return _number(8, "execute", task_id, run)


def verify_span_id(task_id: str, run: int, verifier: str) -> int:
    """Return the id of the span `verify` of one verifier in one run."""
    return _number(8, "verify", task_id, run, verifier)


def chat_span_id(task_id: str, run: int) -> int:
    """Return the id of the span for the model call of one run."""
    return _number(8, "chat", task_id, run)


def _number(size_bytes: int, *parts: object) -> int:
    text = "\0".join(str(part) for part in parts).encode(errors="surrogatepass")
    # All zeros is not a valid id, however unlikely.
    return int.from_bytes(hashlib.sha256(text).digest()[:size_bytes]) or 1
