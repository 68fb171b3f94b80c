"""Carries out commits: reads, decides, appends, and settles what lost.

A request whose task moved meanwhile is read again and decided again in a further, smaller
round of the same command. A commit of unknown outcome is kept as it was planned, so that
its repetition is the identical batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchd.ledger.bodies import load_bodies
from orchd.ledger.dialects import Dialect
from orchd.ledger.plan import Pair, Plan
from orchd.ledger.port import (
    Bodies,
    Claimed,
    ClaimedTask,
    ClaimTasks,
    LedgerUnavailable,
    Outcome,
    Recorded,
    Refusal,
    Request,
)
from orchd.ledger.preparation import Preparation
from orchd.ledger.resolution import Resolution, find_commit
from orchd.ledger.work import Gate, Work
from orchd_eventstore import (
    Appended,
    Commit,
    EventStore,
    OutcomeUnknown,
    Rejected,
    Session,
    StoreUnavailable,
)

ROUNDS_MAX = 32
"""Most rounds in one go. Every round that loses lost to somebody who got on."""
_WORKER_LOCKED = "SELECT fenced FROM workers WHERE id = ? FOR UPDATE"


class Writer:
    """Commits requests; several threads may, each a command of its own.

    Args:
        store: where to.
        dialect: the store's database.
        ask: calls a claim's gate where its owner wants it called.
    """

    def __init__(self, store: EventStore, dialect: Dialect, ask: Gate) -> None:
        self._store = store
        self._dialect = dialect
        self._ask = ask
        self._doubts: dict[str, Work] = {}
        """Commands that await their repetition."""

    def commit(self, requests: Sequence[Request], command_id: str) -> list[Outcome]:
        """Carry out requests; see `Ledger.commit`.

        Raises:
            LedgerUnavailable: nothing is known of the outcome; repeat the same call.
        """
        work = self._doubts.pop(command_id, None) or Work(requests, command_id)
        try:
            for _ in range(ROUNDS_MAX):
                if not work.pending:
                    break
                self._round(work)
            else:
                raise LedgerUnavailable(
                    f"{len(work.pending)} requests lost {ROUNDS_MAX} races in a row"
                )
        except (StoreUnavailable, LedgerUnavailable) as error:
            # What earlier rounds stored must not be decided again.
            self._doubts[command_id] = work
            raise LedgerUnavailable(str(error)) from error
        return [work.outcomes[index] for index in range(len(work.requests))]

    def _round(self, work: Work) -> None:
        with self._store.session() as session:
            if work.plan is not None and self._settle_doubt(session, work, work.plan):
                return
            preparation = Preparation(work, self._dialect, self._ask)
            preparation.decide(session)
            try:
                commit = self._append(session, work, preparation)
            except OutcomeUnknown:
                work.plan = preparation.plan
                raise
        self._settle(work, preparation.plan, commit)

    def _append(
        self, session: Session, work: Work, preparation: Preparation
    ) -> Commit | None:
        plan, claims = preparation.plan, preparation.claims
        if not plan.items and claims is None:
            return None
        commit = session.append(
            plan.items,
            command_id=work.round_id,
            blobs=plan.collector.blobs,
            producer=claims,
        )
        if claims is not None and commit.answer is not None:
            claims.read(commit.answer)
        return commit

    def _settle_doubt(self, session: Session, work: Work, plan: Plan) -> bool:
        """Repeat what was sent when the answer was lost; False to begin anew."""
        pending = (work.requests[index] for index in work.pending)
        claims = [request for request in pending if isinstance(request, ClaimTasks)]
        if not claims:
            commit = session.append(
                plan.items, command_id=work.round_id, blobs=plan.collector.blobs
            )
            work.plan = None
            # The identical batch: the store's own outcomes say all there is to say.
            self._settle_from(work, plan, commit)
            return True
        for worker in sorted({claim.worker for claim in claims}):
            # The lost transaction shares this row until it has ended either way.
            session.execute_all([(self._dialect.sql(_WORKER_LOCKED), (worker,))])
        found = find_commit(session, self._dialect, work.round_id)
        work.plan = None
        if found:
            self._resolve(work, found)
        return bool(found)

    def _settle(self, work: Work, plan: Plan, commit: Commit | None) -> None:
        if commit is not None and commit.repeated:
            with self._store.session() as session:
                found = find_commit(session, self._dialect, work.round_id)
            self._resolve(work, found)
        else:
            self._settle_from(work, plan, commit)

    def _resolve(self, work: Work, found: Sequence[tuple[int, int]]) -> None:
        resolution = Resolution(self._store, work.requests, work.pending, found)
        plan = resolution.plan
        outcomes = dict(plan.outcomes)
        for index, pairs in plan.claims.items():
            outcomes[index] = self._claimed(pairs, alone_waiting=False)
        outcomes |= {
            index: Recorded(position=position)
            for index, position in resolution.positions.items()
        }
        work.settle(outcomes)

    # --- outcomes ---------------------------------------------------------------------

    def _settle_from(self, work: Work, plan: Plan, commit: Commit | None) -> None:
        results: dict[str, Any] = {}
        if commit is not None:
            results = {
                item.stream: result
                for item, result in zip(plan.items, commit.outcomes, strict=True)
            }
        outcomes: dict[int, Outcome] = {}
        for index, outcome in plan.outcomes.items():
            settled = _settled(
                results.get(plan.rests_on.get(index, "")), outcome, index, plan
            )
            if settled is not None:
                outcomes[index] = settled
        for index, pairs in plan.claims.items():
            outcomes[index] = self._claimed(pairs, index in plan.alone_waiting)
        for index, place in plan.recorded.items():
            result = results.get(plan.rests_on[index])
            if isinstance(result, Appended):
                outcomes[index] = Recorded(position=result.first_position + place)
            elif isinstance(result, Rejected):
                outcomes[index] = Refusal(code="rejected", detail=result.reason)
        work.settle(outcomes)

    def _claimed(self, pairs: Sequence[Pair], alone_waiting: bool) -> Claimed:
        bodies = load_bodies([pair.after for pair in pairs], self._store.blobs)
        tasks = map(_claimed_task, pairs, bodies)
        return Claimed(tasks=tuple(tasks), alone_waiting=alone_waiting)


def _claimed_task(pair: Pair, bodies: Bodies) -> ClaimedTask:
    return ClaimedTask(
        before=pair.before,
        state=pair.after,
        description=bodies.description,
        payload=bodies.payload,
        result=bodies.result,
    )


def _settled(result: Any, outcome: Outcome, index: int, plan: Plan) -> Outcome | None:
    if index not in plan.rests_on or isinstance(result, Appended):
        return outcome
    if isinstance(result, Rejected):
        return Refusal(code="rejected", detail=result.reason)
    return None
