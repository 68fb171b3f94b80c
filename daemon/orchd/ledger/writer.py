"""Carries out commits: reads and locks, decides, appends, and settles what lost.

A request whose task moved meanwhile is read again and decided again in a further, smaller
transaction of the same command. A commit of unknown outcome is kept as it was planned, so
that its repetition is the identical batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchd.ledger.bodies import load_bodies
from orchd.ledger.claims import WORKER_EXCLUSIVE
from orchd.ledger.dialects import Dialect
from orchd.ledger.plan import TASK_STREAM, Pair, Plan
from orchd.ledger.port import (
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
    StoreUnavailable,
    Transaction,
)

ROUNDS_MAX = 8
"""Most transactions for one command. From the second on the rows are locked before they
are decided on, so that hardly any command needs a third."""


class Writer:
    """Commits requests; used by one thread at a time.

    Args:
        store: where to.
        dialect: the store's database.
        ask: calls a claim's gate where its owner wants it called.
    """

    def __init__(self, store: EventStore, dialect: Dialect, ask: Gate) -> None:
        self._store = store
        self._dialect = dialect
        self._ask = ask
        self._doubt: Work | None = None

    def commit(self, requests: Sequence[Request], command_id: str) -> list[Outcome]:
        """Carry out requests; see `Ledger.commit`.

        Raises:
            LedgerUnavailable: nothing is known of the outcome; repeat the same call.
        """
        work = self._doubt
        if work is None or work.command_id != command_id:
            work = Work(requests, command_id)
        # Kept on every failure: what earlier rounds stored must not be decided again.
        self._doubt = work
        try:
            while work.pending:
                if work.round >= ROUNDS_MAX:
                    raise LedgerUnavailable(
                        f"{len(work.pending)} requests lost {ROUNDS_MAX} races in a row"
                    )
                self._round(work)
        except StoreUnavailable as error:
            raise LedgerUnavailable(str(error)) from error
        self._doubt = None
        return [work.outcomes[index] for index in range(len(work.requests))]

    def _round(self, work: Work) -> None:
        if work.plan is not None and self._settle_doubt(work, work.plan):
            return
        preparation = Preparation(work, self._dialect, self._ask)
        plan = preparation.plan
        try:
            if preparation.needs_transaction:
                with self._store.transaction() as transaction:
                    preparation.read(transaction)
                    commit = self._append_in(transaction, work, plan)
            else:
                preparation.decide()
                commit = self._append(work, plan)
        except OutcomeUnknown:
            work.plan = plan
            raise
        self._settle(work, plan, commit)

    def _settle_doubt(self, work: Work, plan: Plan) -> bool:
        """Repeat what was sent when the answer was lost; False to begin anew."""
        if not plan.claims:
            commit = self._append(work, plan)
            work.plan = None
            # The identical batch: the store's own outcomes say all there is to say.
            self._settle_from(work, plan, commit)
            return True
        workers = {
            request.worker
            for request in (work.requests[index] for index in plan.claims)
            if isinstance(request, ClaimTasks)
        }
        with self._store.transaction() as transaction:
            # The lost transaction shares this row until it has ended either way.
            for worker in sorted(workers):
                transaction.execute(self._dialect.sql(WORKER_EXCLUSIVE), (worker,))
            found = find_commit(transaction, self._dialect, work.round_id)
        work.plan = None
        if found:
            self._resolve(work, found)
        return bool(found)

    def _append(self, work: Work, plan: Plan) -> Commit | None:
        if not plan.items:
            return None
        return self._store.append(
            plan.items, command_id=work.round_id, blobs=plan.collector.blobs
        )

    def _append_in(self, transaction: Transaction, work: Work, plan: Plan) -> Commit | None:
        if plan.items:
            return transaction.append(
                plan.items, command_id=work.round_id, blobs=plan.collector.blobs
            )
        if find_commit(transaction, self._dialect, work.round_id):
            return Commit(
                command_id=work.round_id,
                first_position=None,
                last_position=None,
                recorded_at=None,
                outcomes=(),
                repeated=True,
            )
        # Due timers may have been promoted.
        transaction.commit()
        return None

    def _settle(self, work: Work, plan: Plan, commit: Commit | None) -> None:
        if commit is not None and commit.repeated:
            with self._store.transaction() as transaction:
                found = find_commit(transaction, self._dialect, work.round_id)
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
            won = [
                pair
                for pair in pairs
                if isinstance(results.get(TASK_STREAM + pair.after.id), Appended)
            ]
            outcomes[index] = self._claimed(won, index in plan.alone_waiting)
        for index, place in plan.recorded.items():
            result = results.get(plan.rests_on[index])
            if isinstance(result, Appended):
                outcomes[index] = Recorded(position=result.first_position + place)
            elif isinstance(result, Rejected):
                outcomes[index] = Refusal(code="rejected", detail=result.reason)
        work.settle(outcomes)

    def _claimed(self, pairs: Sequence[Pair], alone_waiting: bool) -> Claimed:
        return Claimed(
            tasks=tuple(self._claimed_task(pair) for pair in pairs),
            alone_waiting=alone_waiting,
        )

    def _claimed_task(self, pair: Pair) -> ClaimedTask:
        bodies = load_bodies(pair.after, self._store.blob)
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
