"""The simulation sees what it is there to see: each deliberate fault of the engine, of the
state machine or of the database breaks the rule that it should break, and soon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from orchd.engine import recovery, runner
from orchd.engine.claims import Claimer
from orchd.engine.committer import Committer
from orchd.engine.engine import Engine
from orchd.engine.lease import LeaseKeeper
from orchd.engine.recovery import Recovery
from orchd.engine.run import Run, Stop
from orchd.interfaces import TaskStatus
from orchd.ledger.port import LedgerUnavailable, Outcome, SubmitTask, Submitted, WorkerView
from orchd.tasks import deciding, folding
from orchd.tasks import events as e
from orchd.tasks.commands import Recover
from orchd.tasks.machine import Stamped, evolve
from orchd.tasks.state import TaskDraft
from simulation.database import Database
from simulation.seeds import run_seed
from simulation.violations import Invariant

SEEDS_MAX = 1_000
"""So many seeds may pass before a fault is seen; the rarest takes three hundred."""

Break = Callable[[pytest.MonkeyPatch], None]


def fenced_workers_may_claim(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Database, "may_claim", lambda self, worker: True)


def limits_are_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Database, "room", lambda self, limits: {})


def command_ids_are_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Database, "_remember", lambda self, *remembered: None)


def submissions_are_acknowledged_before_their_commit(patch: pytest.MonkeyPatch) -> None:
    add = Committer._add

    def early(self: Committer, request: Any, **how: bool) -> asyncio.Future[Outcome]:
        future = add(self, request, **how)
        if isinstance(request, SubmitTask):
            meta = e.EventMeta(schema=1, at=request.command.now)
            stamped = Stamped(request.task_id, 1, request.command.submitted, meta)
            future.set_result(Submitted(state=evolve(None, stamped), created=True))
        return future

    patch.setattr(Committer, "_add", early)


def a_repeated_batch_gets_a_new_command_id(patch: pytest.MonkeyPatch) -> None:
    async def repeat(self: Any, requests: Any, command_id: str) -> list[Outcome]:
        while True:
            try:
                outcomes: list[Outcome] = await self._ledger.commit(
                    requests, command_id=self._system.new_id()
                )
                return outcomes
            except LedgerUnavailable:
                await self._system.sleep(0.1)

    patch.setattr(Committer, "_repeat", repeat)


def a_recorded_result_is_executed_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(runner, "is_verification", lambda run: False)


def tokens_are_not_compared(patch: pytest.MonkeyPatch) -> None:
    def owns(state: Any, token: int) -> bool:
        return state.status is TaskStatus.IN_PROGRESS

    patch.setattr(deciding, "_owns", owns)


def _fold_by(patch: pytest.MonkeyPatch, event: Any, change: Any) -> None:
    changes: dict[Any, Any] = folding._CHANGES
    patch.setitem(changes, event, change)


def a_release_is_charged(patch: pytest.MonkeyPatch) -> None:
    released = folding._on_released

    def charged(draft: TaskDraft, event: e.TaskReleased, at: int) -> None:
        attempts = draft.attempts
        released(draft, event, at)
        draft.attempts = attempts

    _fold_by(patch, e.TaskReleased, charged)


def a_late_result_makes_a_task_younger(patch: pytest.MonkeyPatch) -> None:
    add = folding._add

    def younger(draft: TaskDraft, version: int, event: Any, meta: e.EventMeta) -> None:
        add(draft, version, event, meta)
        draft.updated_at = meta.at

    patch.setattr(folding, "_add", younger)


def recovery_does_not_fence(patch: pytest.MonkeyPatch) -> None:
    async def is_fenced(self: Recovery, worker: WorkerView) -> bool:
        return worker.expires_at <= self._clock.now()

    patch.setattr(Recovery, "_is_fenced", is_fenced)


def recovery_fences_whom_it_likes(patch: pytest.MonkeyPatch) -> None:
    async def is_fenced(self: Recovery, worker: WorkerView) -> bool:
        return await self._ledger.fence_worker(worker.id, only_if_expired=False)

    patch.setattr(Recovery, "_is_fenced", is_fenced)


def recovery_waits_for_no_sign_of_life(patch: pytest.MonkeyPatch) -> None:
    # Each of the two would do alone: the looks, and the lease of who looks.
    patch.setattr(recovery, "SILENT_LOOKS", 1)
    patch.setattr(LeaseKeeper, "held_seconds", property(lambda self: 1e9))


def the_end_of_the_lease_stops_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Engine, "_on_lease_expired", lambda self: None)


def any_crash_dead_letters(patch: pytest.MonkeyPatch) -> None:
    recover = deciding._recover

    def at_once(state: Any, command: Any) -> Any:
        return recover(msgspec.structs.replace(state, alone=True), command)

    decisions: dict[Any, Any] = deciding._DECISIONS
    patch.setitem(decisions, Recover, at_once)


def others_run_beside_a_task_alone(patch: pytest.MonkeyPatch) -> None:
    claims = Claimer.claims

    def careless(self: Claimer, ending: int, elsewhere: int) -> Any:
        self._alone_running = False
        return claims(self, ending, elsewhere)

    patch.setattr(Claimer, "claims", careless)


def nobody_wakes_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Engine, "wake", lambda self: None)


def a_drain_stops_no_run(patch: pytest.MonkeyPatch) -> None:
    stop_run = Engine.stop_run

    def unless_draining(self: Engine, run: Run, reason: Stop) -> None:
        if reason is not Stop.DRAIN:
            stop_run(self, run, reason)

    patch.setattr(Engine, "stop_run", unless_draining)


BREAKAGES: list[tuple[Break, set[Invariant]]] = [
    (fenced_workers_may_claim, {Invariant.FENCED}),
    (limits_are_ignored, {Invariant.LIMIT}),
    (command_ids_are_ignored, {Invariant.LOST_RUN, Invariant.REPORTED_TWICE}),
    (submissions_are_acknowledged_before_their_commit, {Invariant.AFTER_COMMIT}),
    (a_repeated_batch_gets_a_new_command_id, {Invariant.REPEATED}),
    (a_recorded_result_is_executed_again, {Invariant.EXECUTED_AGAIN}),
    (
        tokens_are_not_compared,
        # The time limit of a run that was lost is recorded for the one after it, and a late
        # release gives a task away that another run still executes.
        {
            Invariant.TOKEN,
            Invariant.RESULT,
            Invariant.RUN_ENDS_ONCE,
            Invariant.TIME_LIMIT,
            Invariant.EXCLUSIVE,
        },
    ),
    (a_release_is_charged, {Invariant.ATTEMPTS}),
    (a_late_result_makes_a_task_younger, {Invariant.LATE}),
    (recovery_does_not_fence, {Invariant.RECOVERED}),
    (recovery_fences_whom_it_likes, {Invariant.FENCED_ALIVE}),
    (recovery_waits_for_no_sign_of_life, {Invariant.OUTAGE}),
    (the_end_of_the_lease_stops_nothing, {Invariant.EXCLUSIVE}),
    (any_crash_dead_letters, {Invariant.CRASH_ALONE}),
    (others_run_beside_a_task_alone, {Invariant.ALONE}),
    (nobody_wakes_up, {Invariant.LIVENESS}),
    (a_drain_stops_no_run, {Invariant.DRAIN, Invariant.LIVENESS, Invariant.LOST_RUN}),
]


@pytest.mark.parametrize(
    ("breakage", "expected"), BREAKAGES, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_fault_is_seen_and_named(
    monkeypatch: pytest.MonkeyPatch, breakage: Break, expected: set[Invariant]
) -> None:
    breakage(monkeypatch)
    for seed in range(SEEDS_MAX):
        violation = run_seed(seed).violation
        if violation:
            assert any(invariant in violation for invariant in expected), violation
            return
    pytest.fail(f"not seen in {SEEDS_MAX} seeds")
