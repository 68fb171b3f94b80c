"""The statements with which a worker finds what it may claim."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from orchd.ledger.derived import PROMOTE_POSTGRESQL, PROMOTE_SQLITE
from orchd.ledger.dialects import Dialect, Statement
from orchd.ledger.port import ClaimTasks
from orchd.ledger.rows import TASK_COLUMNS, columns, names_text

PROMOTED_MAX = 1_000
"""Most timers that one claim promotes."""
DEPTH_COUNTER = "queue/{queue}/{status}"

LOCKED_MAX = 1_000
"""How many candidates other claims may hold before this one looks no further."""

_ELIGIBLE = """\
SELECT * FROM ready AS r WHERE {eligible}
  ORDER BY r.priority DESC, r.ready_at, r.task_id LIMIT ?"""
_PENDING = (
    "t.id = r.task_id AND t.status = 'pending'"
    " AND (t.waiting_reason IS NULL OR t.waiting_until <= ?)"
)
_COLUMNS = f"{columns(TASK_COLUMNS, 't')}, r.priority, r.ready_at"

# The inner limit and the lateral join leave PostgreSQL one plan, with statistics and
# without: along `ready` in order, one task at a time, until there are enough. The task's
# own columns are asked because a row that changed while it was being locked is checked
# against these conditions again, and its ready row is not.
_CANDIDATES_POSTGRESQL = f"""\
SELECT {_COLUMNS} FROM ({_ELIGIBLE}) AS r
CROSS JOIN LATERAL (
  SELECT * FROM tasks AS t WHERE {_PENDING} FOR UPDATE SKIP LOCKED
) AS t LIMIT ?"""
_CANDIDATES_SQLITE = f"""\
SELECT {_COLUMNS} FROM ({_ELIGIBLE}) AS r CROSS JOIN tasks AS t ON {_PENDING} LIMIT ?"""

WORKER_SHARED = "SELECT fenced FROM workers WHERE id = ? FOR SHARE"
WORKER_EXCLUSIVE = "SELECT fenced FROM workers WHERE id = ? FOR UPDATE"
_LIMITS_EXIST = "INSERT INTO limits (name) VALUES (?) ON CONFLICT DO NOTHING"
_LIMITS_LOCKED = "SELECT name FROM limits WHERE name = ANY(?) ORDER BY name FOR UPDATE"
_COUNTERS = "SELECT name, value FROM counters WHERE name = ANY(?)"


def promotions(dialect: Dialect, now: int) -> list[Statement]:
    """Return the statements that move due timers to `ready`."""
    if dialect.is_postgresql:
        return [(PROMOTE_POSTGRESQL, (now, PROMOTED_MAX))]
    move, forget = PROMOTE_SQLITE
    return [(move, (now, PROMOTED_MAX)), (forget, (now,))]


def limit_locks(dialect: Dialect, names: Sequence[str]) -> list[Statement]:
    """Return the statements that lock queues' limits and read how many tasks run.

    The last one returns the counters of tasks in progress.
    """
    counters = [DEPTH_COUNTER.format(queue=n, status="in_progress") for n in names]
    return [
        *((_LIMITS_EXIST, (name,)) for name in names),
        (_LIMITS_LOCKED, (dialect.array(names),)),
        (_COUNTERS, (dialect.array(counters),)),
    ]


def candidate_searches(
    dialect: Dialect, claim: ClaimTasks, room: Mapping[str, int]
) -> list[Statement]:
    """Return the statements that find and lock what `claim` may have.

    Args:
        room: for each queue with a limit, how many of its tasks may still start. A queue
            with less room than the claim has slots is searched apart.
    """
    narrow = {name: left for name, left in room.items() if left < claim.slots}
    searches = [_search(dialect, claim, claim.slots, excluded=tuple(narrow))]
    for name, left in sorted(narrow.items()):
        if left > 0:
            searches.append(_search(dialect, claim, left, only=name))
    return searches


def _search(
    dialect: Dialect,
    claim: ClaimTasks,
    limit: int,
    *,
    excluded: tuple[str, ...] = (),
    only: str | None = None,
) -> Statement:
    eligible = _eligible(dialect, claim)
    if excluded:
        eligible.add("r.queue <> ALL(?)", dialect.array(excluded))
    if only is not None:
        eligible.add("r.queue = ?", only)
    text = _CANDIDATES_POSTGRESQL if dialect.is_postgresql else _CANDIDATES_SQLITE
    parameters = (*eligible.parameters, limit + LOCKED_MAX, claim.now, limit)
    return text.format(eligible=eligible.text), parameters


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
    parts = pattern.split("*")
    if dialect.is_postgresql:
        return f"^{'.*'.join(re.escape(part) for part in parts)}$"
    return "*".join(re.sub(r"[\[?]", r"[\g<0>]", part) for part in parts)


def alone_search(dialect: Dialect, claim: ClaimTasks) -> Statement:
    """Return the statement that tells whether a ready task wants to run alone."""
    alone = _Conditions()
    _add_capabilities(alone, dialect, claim)
    alone.add("r.queue NOT IN (SELECT name FROM queues WHERE paused)")
    _add_queues(alone, dialect, claim.queues)
    alone.add("r.crashes >= ?", claim.max_crashes)
    if claim.max_crashes > 0:
        # What the partial index needs to see: hardly any task has ever crashed.
        alone.add("r.crashes > 0")
    return (
        f"SELECT 1 FROM ready AS r WHERE {alone.text} LIMIT 1",
        tuple(alone.parameters),
    )
