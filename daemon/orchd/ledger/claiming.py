"""The claims of a batch: what an append adds to itself for the workers that ask.

On PostgreSQL a function in the database searches and starts; here is what it is asked and
what its answer means. On SQLite, with its one writer, the same is done step by step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from orchd.ledger.claims import (
    DEPTH_COUNTER,
    WORKER,
    alone_search,
    candidate_searches,
    promotions,
    queue_expression,
    running_counts,
)
from orchd.ledger.fresh import claimed_state
from orchd.ledger.plan import Plan
from orchd.ledger.port import ClaimTasks
from orchd.ledger.rows import Row, task_state
from orchd.ledger.work import Gate
from orchd.tasks.state import TaskState
from orchd_eventstore import Append, Execute, Produced

_encode = msgspec.json.Encoder().encode


class _Claimed(msgspec.Struct, gc=False):
    """What the function answers to one claim."""

    fenced: bool = False
    tasks: list[list[Any]] | None = None
    """The rows as they were before; `claimed_state` reads them."""
    alone_waiting: bool = False


_decode = msgspec.json.Decoder(list[_Claimed]).decode


class Claims:
    """The claims of one batch, as the producer of its append.

    Args:
        claims: requests with their place in the batch.
        plan: learns what was claimed.
        ask: calls a claim's gate where its owner wants it called.
    """

    def __init__(
        self, claims: Sequence[tuple[int, ClaimTasks]], plan: Plan, ask: Gate
    ) -> None:
        self._claims = claims
        self._plan = plan
        self._ask = ask

    # --- PostgreSQL -------------------------------------------------------------------

    def wish(self) -> str:
        """Return what `orchd_claim` is asked for."""
        limits = self._limits()
        wish: dict[str, Any] = {
            "now": max(claim.now for _, claim in self._claims),
            "claims": [self._wanted(claim) for _, claim in self._claims],
        }
        if limits:
            wish["limits"] = limits
        return _encode(wish).decode()

    def _limits(self) -> dict[str, int]:
        limits: dict[str, int] = {}
        for _, claim in self._claims:
            limits |= claim.limits
        return limits

    def _wanted(self, claim: ClaimTasks) -> dict[str, Any]:
        names = None
        if "*" not in claim.queues:
            names = [name for name in claim.queues if "*" not in name]
        return {
            "worker": claim.worker,
            "worker_json": _encode(claim.worker).decode(),
            "slots": claim.slots,
            "now": claim.now,
            "meta": self._plan.meta_text(claim.origin, claim.now),
            "executors": claim.executors,
            "verifiers": claim.verifiers,
            "queues": names,
            "patterns": [queue_expression(name) for name in claim.queues if "*" in name],
            "probe": claim.probe,
            "alone": claim.alone,
            "max_crashes": claim.max_crashes,
            # Releases before read only whole rows, and do not ask for brief ones.
            "brief": True,
        }

    def read(self, answer: bytes | msgspec.Raw) -> None:
        """Take over what the function answered."""
        for (index, claim), claimed in zip(self._claims, _decode(answer), strict=True):
            if claimed.fenced:
                self._plan.fenced(index, claim.worker)
                continue
            states = [claimed_state(row) for row in claimed.tasks or ()]
            self._plan.started(index, claim, states)
            if claimed.alone_waiting:
                self._plan.alone_waiting.add(index)

    # --- SQLite -----------------------------------------------------------------------

    def produce(self, execute: Execute, changes: Mapping[str, int]) -> Produced:
        """Claim, within the transaction that `execute` belongs to."""
        for statement in promotions(max(claim.now for _, claim in self._claims)):
            execute(*statement)
        room = self._room(execute, changes)
        items: list[Append] = []
        for index, claim in self._claims:
            rows = execute(WORKER, (claim.worker,))
            if not rows or rows[0][0]:
                self._plan.fenced(index, claim.worker)
                continue
            for state in self._claim(execute, index, claim, room):
                if state.queue in room:
                    room[state.queue] -= 1
            items += self._plan.claimed_items(index)
        return Produced(items=items)

    def _room(self, execute: Execute, changes: Mapping[str, int]) -> dict[str, int]:
        limits = self._limits()
        if not limits:
            return {}
        running: dict[str, int] = {
            name: value for name, value in execute(*running_counts(sorted(limits)))
        }
        room: dict[str, int] = {}
        for queue, most in limits.items():
            counter = DEPTH_COUNTER.format(queue=queue, status="in_progress")
            # Runs that end in this very commit make room for those that start in it.
            taken = running.get(counter, 0) + changes.get(counter, 0)
            room[queue] = max(0, most - taken)
        return room

    def _claim(
        self, execute: Execute, index: int, claim: ClaimTasks, room: Mapping[str, int]
    ) -> Sequence[TaskState]:
        rows: list[Row] = []
        for statement in candidate_searches(claim, room):
            rows += execute(*statement)
        rows.sort(key=lambda row: (-row[-2], row[-1], row[0]))
        states = [task_state(row[:-2]) for row in rows[: claim.slots]]
        if states and claim.gate is not None and not self._ask(claim.gate):
            states = []
        self._plan.claim(index, claim, states)
        if not claim.alone and claim.probe is None and execute(*alone_search(claim)):
            self._plan.alone_waiting.add(index)
        return states
