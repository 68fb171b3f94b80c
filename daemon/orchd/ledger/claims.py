"""The statements with which a worker finds what it may claim.

On SQLite a claim searches with them; on PostgreSQL `orchd.ledger.claim_function` does, and
they only tell whether there is anything to claim.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from orchd.ledger.derived import PROMOTE_SQLITE
from orchd.ledger.dialects import SQLITE, Dialect, Statement
from orchd.ledger.port import ClaimTasks
from orchd.ledger.rows import TASK_COLUMNS, columns, names_text

PROMOTED_MAX = 1_000
"""Most timers that one claim promotes."""
DEPTH_COUNTER = "queue/{queue}/{status}"

# The cross join keeps SQLite to the order of the tables: along `ready`, one task at a time.
_CANDIDATES = f"""\
SELECT {columns(TASK_COLUMNS, "t")}, r.priority, r.ready_at
FROM ready AS r CROSS JOIN tasks AS t ON t.id = r.task_id AND t.status = 'pending'
  AND (t.waiting_reason IS NULL OR t.waiting_until <= ?)
WHERE {{eligible}}
ORDER BY r.priority DESC, r.ready_at, r.task_id LIMIT ?"""
_COUNTERS = "SELECT name, value FROM counters WHERE name = ANY(?)"
WORKER = "SELECT fenced FROM workers WHERE id = ?"


def promotions(now: int) -> list[Statement]:
    """Return the statements that move due timers to `ready`."""
    move, forget = PROMOTE_SQLITE
    return [(move, (now, PROMOTED_MAX)), (forget, (now,))]


def running_counts(queues: Sequence[str]) -> Statement:
    """Return the statement that reads how many tasks of each queue run, as counters."""
    names = [DEPTH_COUNTER.format(queue=name, status="in_progress") for name in queues]
    return SQLITE.sql(_COUNTERS), (SQLITE.array(names),)


def candidate_searches(claim: ClaimTasks, room: Mapping[str, int]) -> list[Statement]:
    """Return the statements that find what `claim` may have, in order of preference.

    Args:
        room: for each queue with a limit, how many of its tasks may still start. A queue
            with less room than the claim has slots is searched apart.
    """
    narrow = {name: left for name, left in room.items() if left < claim.slots}
    searches = [_search(claim, claim.slots, excluded=tuple(narrow))]
    for name, left in sorted(narrow.items()):
        if left > 0:
            searches.append(_search(claim, left, only=name))
    return searches


def _search(
    claim: ClaimTasks,
    limit: int,
    *,
    excluded: tuple[str, ...] = (),
    only: str | None = None,
) -> Statement:
    eligible = _eligible(SQLITE, claim)
    if excluded:
        eligible.add("r.queue <> ALL(?)", SQLITE.array(excluded))
    if only is not None:
        eligible.add("r.queue = ?", only)
    text = SQLITE.sql(_CANDIDATES.format(eligible=eligible.text))
    return text, (claim.now, *eligible.parameters, limit)


def anything_to_claim(dialect: Dialect, claim: ClaimTasks) -> list[Statement]:
    """Return the statements that find a task which `claim` might have, ready or due."""
    eligible = _eligible(dialect, claim)
    ready = f"SELECT 1 FROM ready AS r WHERE {eligible.text} LIMIT 1"
    due = f"SELECT 1 FROM timers AS r WHERE r.due_at <= ? AND {eligible.text} LIMIT 1"
    return [
        (dialect.sql(ready), tuple(eligible.parameters)),
        (dialect.sql(due), (claim.now, *eligible.parameters)),
    ]


class _Conditions:
    """Conditions joined by AND, with their parameters."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self.parameters: list[Any] = []

    def add(self, text: str, *parameters: Any) -> None:
        self._texts.append(text)
        self.parameters += parameters

    @property
    def text(self) -> str:
        return "\n  AND ".join(self._texts)


def _eligible(dialect: Dialect, claim: ClaimTasks) -> _Conditions:
    conditions = _Conditions()
    _add_capabilities(conditions, dialect, claim)
    conditions.add("r.queue NOT IN (SELECT name FROM queues WHERE paused)")
    _add_queues(conditions, dialect, claim.queues)
    if claim.alone:
        conditions.add("r.crashes >= ?", claim.max_crashes)
    else:
        conditions.add("r.crashes < ?", claim.max_crashes)
    return conditions


def _add_capabilities(conditions: _Conditions, dialect: Dialect, claim: ClaimTasks) -> None:
    if claim.probe is not None:
        conditions.add("r.phase = 'execute' AND r.executor = ?", claim.probe)
        conditions.add("r.executor = ANY(?)", dialect.array(claim.executors))
        conditions.add(
            "EXISTS (SELECT 1 FROM breakers WHERE name = ? AND position = 'half_open'"
            " AND worker = ?)",
            claim.probe,
            claim.worker,
        )
        return
    conditions.add(
        "(r.phase = 'execute' AND r.executor = ANY(?) AND r.executor NOT IN"
        " (SELECT name FROM breakers WHERE position <> 'closed')"
        f" OR r.phase = 'verify' AND {dialect.subset('r.verifiers')})",
        dialect.array(claim.executors),
        names_text(claim.verifiers),
    )


def served_queues(dialect: Dialect, patterns: Sequence[str]) -> tuple[str, Sequence[Any]]:
    """Return the condition that a row `r` is in a served queue, and its parameters."""
    conditions = _Conditions()
    _add_queues(conditions, dialect, patterns)
    return conditions.text or "TRUE", conditions.parameters


def _add_queues(conditions: _Conditions, dialect: Dialect, patterns: Sequence[str]) -> None:
    if "*" in patterns:
        return
    texts, parameters = [], []
    names = [pattern for pattern in patterns if "*" not in pattern]
    if names:
        texts.append("r.queue = ANY(?)")
        parameters.append(dialect.array(names))
    for pattern in patterns:
        if "*" in pattern:
            texts.append("r.queue ~ ?" if dialect.is_postgresql else "r.queue GLOB ?")
            parameters.append(_pattern(pattern, dialect))
    conditions.add(f"({' OR '.join(texts) or 'FALSE'})", *parameters)


def _pattern(pattern: str, dialect: Dialect) -> str:
    if dialect.is_postgresql:
        return queue_expression(pattern)
    parts = pattern.split("*")
    return "*".join(re.sub(r"[\[?]", r"[\g<0>]", part) for part in parts)


def queue_expression(pattern: str) -> str:
    """Return a pattern of queue names as PostgreSQL's regular expression."""
    return f"^{'.*'.join(re.escape(part) for part in pattern.split('*'))}$"


def alone_search(claim: ClaimTasks) -> Statement:
    """Return the statement that tells whether a ready task wants to run alone."""
    alone = _Conditions()
    _add_capabilities(alone, SQLITE, claim)
    alone.add("r.queue NOT IN (SELECT name FROM queues WHERE paused)")
    _add_queues(alone, SQLITE, claim.queues)
    alone.add("r.crashes >= ?", claim.max_crashes)
    if claim.max_crashes > 0:
        # What the partial index needs to see: hardly any task has ever crashed.
        alone.add("r.crashes > 0")
    text = f"SELECT 1 FROM ready AS r WHERE {alone.text} LIMIT 1"
    return SQLITE.sql(text), tuple(alone.parameters)
