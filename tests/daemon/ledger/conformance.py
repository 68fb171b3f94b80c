"""What every ledger must do, whatever it is built on.

A subclass named `Test…` gives the fixture `hand`: a registered worker's hand on an empty
ledger. `keeps_log` tells whether the ledger has a log, blobs and idempotent commands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from orchd.breakers import Close, Open, Position, Probe
from orchd.daemons import DaemonStopped
from orchd.interfaces import TaskStatus
from orchd.ledger.news import NEWS_SECONDS
from orchd.ledger.port import (
    Acted,
    ActOnBreaker,
    BreakerActed,
    Claimed,
    QueueSet,
    RecordDaemon,
    Recorded,
    Request,
    Submitted,
    TaskFilter,
)
from orchd.tasks import commands as c
from orchd.tasks import events as e
from orchd.tasks.failures import ErrorClass
from orchd.tasks.machine import Stamped, decide, evolve
from orchd.tasks.state import Phase, ReleaseReason
from support.ledgers import MINUTE, ORIGIN, Hand, owned, raw, refusal


class LedgerConformance:
    """The rules of the port."""

    # --- submissions ------------------------------------------------------------------

    async def test_a_submission_is_there_when_it_is_acknowledged(self, hand: Hand) -> None:
        state = await hand.submit("a", priority=3, labels={"x": "y"})
        assert await hand.ledger.task("a") == state
        assert (state.status, state.version) == (TaskStatus.PENDING, 1)

    async def test_the_same_submission_again_creates_nothing(self, hand: Hand) -> None:
        first = await hand.submit("a")
        [again] = await hand.commit(hand.submission("a"))
        assert again == Submitted(state=first, created=False)

    async def test_the_same_id_with_another_body_is_a_conflict(self, hand: Hand) -> None:
        await hand.submit("a")
        [again] = await hand.commit(hand.submission("a", body_hash="other"))
        assert refusal(again) == "id_conflict"

    async def test_a_key_leads_to_the_task_that_has_it(self, hand: Hand) -> None:
        first = await hand.submit("a", idempotency_key="k", body_hash="same")
        [again] = await hand.commit(
            hand.submission("b", idempotency_key="k", body_hash="same")
        )
        assert again == Submitted(state=first, created=False)
        [other] = await hand.commit(
            hand.submission("c", idempotency_key="k", body_hash="else")
        )
        assert refusal(other) == "key_conflict"

    async def test_what_is_taken_is_told_beforehand(self, hand: Hand) -> None:
        first = await hand.submit("a", idempotency_key="k", body_hash="same")
        asked = [
            hand.submission("a", body_hash="same"),
            hand.submission("a", body_hash="other"),
            hand.submission("b", idempotency_key="k", body_hash="other"),
            hand.submission("b", idempotency_key="free"),
        ]
        same, by_id, by_key, free = await hand.ledger.taken(asked)
        assert same == Submitted(state=first, created=False)
        assert by_id is not None
        assert refusal(by_id) == "id_conflict"
        assert by_key is not None
        assert refusal(by_key) == "key_conflict"
        assert free is None
        assert await hand.ledger.task("b") is None
        assert await hand.ledger.task("b") is None

    async def test_equal_submissions_in_one_batch_make_one_task(self, hand: Hand) -> None:
        outcomes = await hand.commit(
            hand.submission("a"),
            hand.submission("a"),
            hand.submission("a", body_hash="other"),
            hand.submission("b", idempotency_key="k", body_hash="k"),
            hand.submission("c", idempotency_key="k", body_hash="k"),
        )
        assert [getattr(outcome, "created", None) for outcome in outcomes] == [
            True,
            False,
            None,
            True,
            False,
        ]
        assert await hand.types("a") == ["submitted"]

    # --- claims -----------------------------------------------------------------------

    async def test_claims_go_by_priority_then_by_age(self, hand: Hand) -> None:
        for task_id, priority in (("a", 0), ("b", 5), ("c", 0), ("d", -1)):
            await hand.submit(task_id, priority=priority)
        assert await hand.claim_ids(2) == ["b", "a"]
        assert await hand.claim_ids(9) == ["c", "d"]
        assert await hand.claim_ids(9) == []

    async def test_a_claim_shows_the_task_before_and_after(self, hand: Hand) -> None:
        before = await hand.submit("a", payload=raw({"n": 1}))
        [claimed] = await hand.claim()
        assert claimed.before == before
        assert claimed.state == await hand.ledger.task("a")
        assert (claimed.description, claimed.payload) == ("do a", '{"n":1}')
        assert (claimed.state.token, claimed.state.worker) == (2, hand.worker)

    async def test_a_claim_of_unlike_tasks_shows_each_as_it_was(self, hand: Hand) -> None:
        """What most tasks have in common is not told of each, and must not be made up."""
        unlike: dict[str, dict[str, Any]] = {
            "plain": {},
            "delayed": {"run_at": hand.now() + 1},
            "described at length": {"description": "x" * 40_000},
            "labelled": {"labels": {"team": "a"}},
            "of a parent": {"parent_id": "plain"},
            "of somebody": {"namespace": "somebody"},
            "serial": {"lane": "one at a time"},
            "with a payload at length": {"payload": raw(["x" * 40_000])},
        }
        before = {name: await hand.submit(name, **some) for name, some in unlike.items()}
        await asyncio.sleep(0.01)
        claimed = await hand.claim()
        assert {task.before.id: task.before for task in claimed} == before
        for task in claimed:
            assert task.state == await hand.ledger.task(task.before.id)
        given_back = {
            task.state.id: await hand.acted(
                task.state.id,
                c.Release(now=hand.now(), reason=ReleaseReason.DRAIN, **owned(task.state)),
                task.state,
            )
            for task in claimed
        }
        again = await hand.claim()
        assert {task.before.id: task.before for task in again} == given_back

    @pytest.mark.parametrize("alone", [False, True])
    @pytest.mark.parametrize("limit", [None, 0.1, 1.0000005, 12.3456789, 1e9, 1e18])
    async def test_a_start_is_what_the_state_machine_says(
        self, hand: Hand, alone: bool, limit: float | None
    ) -> None:
        """Whoever decides it, Python or the database: event, row and state are one."""
        worker = 'w "\\é'
        other = Hand(hand.ledger, worker)
        await other.register()
        before = await hand.submit("a", execute_timeout_seconds=limit, run_at=5)
        most = 0 if alone else 3
        [claimed] = await other.claim(alone=alone, max_crashes=most)
        now = claimed.state.started_at or 0
        start = c.Start(now=now, worker=worker, max_crashes=most)
        [event] = decide(before, start)
        entry = (await hand.ledger.task_events("a"))[-1]
        assert (entry.type, entry.data) == ("task.started", e.encode(event))
        stamped = Stamped("a", 2, event, e.decode_meta(entry.meta))
        assert claimed.state == evolve(before, stamped) == await hand.ledger.task("a")

    async def test_only_known_executors_are_claimed_for(self, hand: Hand) -> None:
        await hand.submit("a", executor="other")
        await hand.submit("b")
        assert await hand.claim_ids() == ["b"]
        assert await hand.claim_ids(executors=("work", "other")) == ["a"]

    async def test_paused_queues_are_left_alone(self, hand: Hand) -> None:
        await hand.submit("a", queue="slow")
        await hand.submit("b")
        await hand.pause("slow")
        assert await hand.claim_ids() == ["b"]
        await hand.pause("slow", pause=False)
        assert await hand.claim_ids() == ["a"]

    @pytest.mark.parametrize(
        ("patterns", "expected"),
        [
            (("one",), ["a"]),
            (("one", "two"), ["a", "b"]),
            (("t*",), ["b"]),
            (("*",), ["a", "b", "c"]),
            (("ONE", "[o]ne"), []),
        ],
    )
    async def test_claims_keep_to_their_queues(
        self, hand: Hand, patterns: tuple[str, ...], expected: Sequence[str]
    ) -> None:
        for task_id, queue in (("a", "one"), ("b", "two"), ("c", "four")):
            await hand.submit(task_id, queue=queue)
        assert await hand.claim_ids(queues=patterns) == expected

    async def test_a_limit_holds_over_all_claims(self, hand: Hand) -> None:
        for number in range(5):
            await hand.submit(f"a{number}", queue="narrow", priority=9)
        await hand.submit("b")
        limits = {"narrow": 2}
        assert await hand.claim_ids(limits=limits) == ["a0", "a1", "b"]
        assert await hand.claim_ids(limits=limits) == []
        held = await hand.ledger.held_by(hand.worker, limit=10)
        done = [hand.act_request(s.id, hand.completion(s), s) for s in held]
        outcomes = await hand.commit(*done, hand.claim_request(limits=limits))
        claimed = outcomes[-1]
        assert isinstance(claimed, Claimed)
        assert [task.state.id for task in claimed.tasks] == ["a2", "a3"]

    async def test_a_task_that_is_given_back_can_start_in_the_same_commit(
        self, hand: Hand
    ) -> None:
        await hand.submit("a")
        [first] = await hand.claim()
        release = c.Release(
            now=hand.now(), reason=ReleaseReason.DRAIN, **owned(first.state)
        )
        given_back = hand.act_request("a", release, first.state)
        requests: list[Request] = [given_back, hand.claim_request()]
        outcomes = await hand.commit(*requests, command_id="once")
        claimed = outcomes[1]
        assert isinstance(claimed, Claimed)
        assert [task.state.runs for task in claimed.tasks] == [2]
        assert claimed.tasks[0].state == await hand.ledger.task("a")
        assert await hand.commit(*requests, command_id="once") == outcomes

    async def test_an_open_breaker_stops_claims_and_a_probe_tries_one(
        self, hand: Hand
    ) -> None:
        for task_id in ("a", "b"):
            await hand.submit(task_id)
        now = hand.now()
        opened = Open(now=now, failures=5, error="down", cooldown=0)
        assert (await self._breaker(hand, opened)).position is Position.OPEN
        assert await hand.claim_ids() == []
        assert await hand.claim_ids(1, probe="work") == []
        probe = Probe(now=now, worker=hand.worker, patience=MINUTE)
        assert (await self._breaker(hand, probe)).position is Position.HALF_OPEN
        assert await hand.claim_ids() == []
        [half_open] = await hand.ledger.breakers()
        assert not await hand.ledger.has_probe(half_open)
        assert await hand.claim_ids(1, probe="work") == ["a"]
        assert await hand.ledger.has_probe(half_open)
        await hand.acted("a", c.Recover(now=hand.now(), worker=hand.worker))
        assert not await hand.ledger.has_probe(half_open)
        assert await hand.claim_ids(1, probe="work") == ["b"]
        await self._breaker(hand, Close(now=now))
        assert await hand.claim_ids() == ["a"]
        assert [state.position for state in await hand.ledger.breakers()] == [
            Position.CLOSED
        ]

    async def _breaker(self, hand: Hand, command: Any) -> Any:
        request = ActOnBreaker(name="work", command=command, origin=ORIGIN)
        [outcome] = await hand.commit(request)
        assert isinstance(outcome, BreakerActed)
        return outcome.state

    async def test_a_task_that_crashed_too_often_is_claimed_alone(self, hand: Hand) -> None:
        await hand.submit("a")
        [claimed] = await hand.claim()
        await hand.acted("a", c.Recover(now=hand.now(), worker=hand.worker))
        await hand.submit("b")
        found = await hand.claimed(max_crashes=1)
        assert [task.state.id for task in found.tasks] == ["b"]
        assert found.alone_waiting
        alone = await hand.claim(1, max_crashes=1, alone=True)
        assert [(task.state.id, task.state.alone) for task in alone] == [("a", True)]
        assert claimed.state.alone is False

    async def test_a_gate_that_is_shut_lets_nothing_start(self, hand: Hand) -> None:
        asked: list[int] = []

        def shut() -> bool:
            asked.append(1)
            return False

        assert await hand.claim_ids(gate=shut) == []
        assert asked == []
        await hand.submit("a")
        assert await hand.claim_ids(gate=shut) == []
        assert asked == [1]
        assert await hand.claim_ids(gate=lambda: True) == ["a"]

    async def test_a_fenced_worker_claims_nothing(self, hand: Hand) -> None:
        await hand.submit("a")
        assert await hand.ledger.fence_worker(hand.worker, only_if_expired=False)
        [outcome] = await hand.commit(hand.claim_request())
        assert refusal(outcome) == "fenced"
        assert not await hand.ledger.renew_worker(hand.worker, 10.0)

    # --- time -------------------------------------------------------------------------

    async def test_a_task_is_not_claimed_before_its_time(self, hand: Hand) -> None:
        due = hand.now() + MINUTE
        await hand.submit("a", run_at=due)
        assert await hand.claim_ids() == []
        assert (await hand.ledger.look()).next_due == due
        assert await hand.claim_ids(now=due) == ["a"]
        assert (await hand.ledger.look()).next_due is None

    async def test_a_look_sees_the_clock_and_the_end_of_the_log(self, hand: Hand) -> None:
        before = await hand.ledger.look()
        await hand.submit("a")
        after = await hand.ledger.look()
        assert (before.position, after.position) == (0, 1)
        assert before.next_due is None
        assert after.now == pytest.approx(await hand.ledger.now(), abs=MINUTE)
        assert after.now >= before.now

    async def test_a_look_tells_whether_any_task_is_ready(self, hand: Hand) -> None:
        due = hand.now() + MINUTE
        ready = [(await hand.ledger.look()).is_any_ready]
        await hand.submit("later", run_at=due)
        ready.append((await hand.ledger.look()).is_any_ready)
        await hand.submit("now")
        ready.append((await hand.ledger.look()).is_any_ready)
        assert await hand.claim_ids() == ["now"]
        ready.append((await hand.ledger.look()).is_any_ready)
        assert ready == [False, False, True, False]

    async def test_a_look_sees_what_the_claim_of_another_made_ready(
        self, hand: Hand
    ) -> None:
        due = hand.now() + MINUTE
        await hand.submit("a", run_at=due)
        assert await hand.claim_ids(now=due, executors=("other",)) == []
        look = await hand.ledger.look()
        assert (look.next_due, look.is_any_ready) == (None, True)

    async def test_a_task_that_waits_for_its_time_can_be_cancelled(
        self, hand: Hand
    ) -> None:
        due = hand.now() + MINUTE
        await hand.submit("a", run_at=due)
        await hand.acted("a", c.Cancel(now=hand.now()))
        assert (await hand.ledger.look()).next_due is None
        assert await hand.claim_ids(now=due) == []

    # --- transitions ------------------------------------------------------------------

    async def test_a_result_is_recorded_then_judged(self, hand: Hand) -> None:
        await hand.submit("a", verifiers=("judge",))
        [claimed] = await hand.claim()
        mine = owned(claimed.state)
        output = c.Output(result="r", confidence=0.5, metadata=raw({"k": 1}))
        recorded = await hand.acted(
            "a", c.RecordResult(now=hand.now(), output=output, **mine), claimed.state
        )
        assert (recorded.phase, recorded.result) == (Phase.VERIFY, "r")
        done = await hand.acted(
            "a",
            c.Complete(now=hand.now(), verdict=c.Verdict(verifier="judge"), **mine),
            recorded,
        )
        assert (done.status, done.passed_verifiers) == (TaskStatus.COMPLETED, ("judge",))
        assert await hand.ledger.task("a") == done

    async def test_a_recorded_result_is_claimed_only_to_verify(self, hand: Hand) -> None:
        await hand.submit("a", verifiers=("judge", "second"))
        [claimed] = await hand.claim()
        mine, now = owned(claimed.state), hand.now()
        await hand.acted(
            "a",
            c.FailVerification(
                now=now,
                verifier="judge",
                error="down",
                retry_at=now,
                max_verify_errors=9,
                output=c.Output(result="r"),
                **mine,
            ),
        )
        assert await hand.claim_ids() == []
        [again] = await hand.claim(executors=(), verifiers=("second", "judge"))
        assert (again.result, again.state.attempts, again.state.runs) == ("r", 1, 2)

    async def test_a_refusal_keeps_its_feedback_for_the_next_attempt(
        self, hand: Hand
    ) -> None:
        await hand.submit("a")
        [claimed] = await hand.claim()
        now = hand.now()
        refused = c.Refuse(
            now=now,
            verdict=c.Verdict(verifier="judge", feedback="longer"),
            retry_at=now,
            output=c.Output(result="r"),
            **owned(claimed.state),
        )
        state = await hand.acted("a", refused, claimed.state)
        assert (state.status, state.feedback) == (TaskStatus.PENDING, "longer")
        assert await hand.claim_ids() == ["a"]

    async def test_a_dead_letter_can_be_requeued_and_discarded(self, hand: Hand) -> None:
        await hand.submit("a", max_attempts=1)
        for end in (c.Requeue(now=hand.now()), c.Discard(now=hand.now())):
            [claimed] = await hand.claim()
            failed = c.Fail(
                now=hand.now(),
                error_class=ErrorClass.EXCEPTION,
                error="boom",
                retry_at=0,
                **owned(claimed.state),
            )
            state = await hand.acted("a", failed, claimed.state)
            assert state.status is TaskStatus.FAILED
            await hand.acted("a", end)
        state = await hand.acted("a", c.Requeue(now=hand.now()))
        assert (state.status, state.round) == (TaskStatus.PENDING, 3)

    async def test_a_release_costs_no_attempt(self, hand: Hand) -> None:
        await hand.submit("a")
        [claimed] = await hand.claim()
        release = c.Release(
            now=hand.now(), reason=ReleaseReason.DRAIN, **owned(claimed.state)
        )
        state = await hand.acted("a", release, claimed.state)
        assert (state.status, state.attempts, state.runs) == (TaskStatus.PENDING, 0, 1)

    async def test_a_running_task_is_cancelled_by_its_worker(self, hand: Hand) -> None:
        await hand.submit("a")
        [claimed] = await hand.claim()
        await hand.acted("a", c.Cancel(now=hand.now()))
        assert await hand.ledger.cancel_requests(hand.worker) == ["a"]
        confirm = c.ConfirmCancel(now=hand.now(), **owned(claimed.state))
        # What the worker knows is older than the request; that must not matter.
        state = await hand.acted("a", confirm, claimed.state)
        assert state.status is TaskStatus.CANCELLED
        assert await hand.ledger.cancel_requests(hand.worker) == []

    async def test_a_late_result_is_rejected_and_audited(self, hand: Hand) -> None:
        await hand.submit("a")
        [first] = await hand.claim()
        await hand.acted("a", c.Recover(now=hand.now(), worker=hand.worker))
        [second] = await hand.claim()
        late = await hand.acted("a", hand.completion(first.state), first.state)
        assert (late.status, late.token) == (TaskStatus.IN_PROGRESS, second.state.token)
        assert (await hand.types("a"))[-1] == "late_result_rejected"
        done = await hand.acted("a", hand.completion(second.state), second.state)
        assert done.status is TaskStatus.COMPLETED

    async def test_commands_on_one_task_in_one_batch_follow_each_other(
        self, hand: Hand
    ) -> None:
        await hand.submit("a")
        cancel = hand.act_request("a", c.Cancel(now=hand.now()))
        first, second = await hand.commit(cancel, cancel)
        assert isinstance(first, Acted)
        assert isinstance(second, Acted)
        assert (len(first.events), len(second.events)) == (1, 0)

    async def test_what_does_not_fit_is_refused_alone(self, hand: Hand) -> None:
        await hand.submit("a")
        unknown, wrong, fine = await hand.commit(
            hand.act_request("nobody", c.Cancel(now=hand.now())),
            hand.act_request("a", c.Discard(now=hand.now())),
            hand.submission("b"),
        )
        assert (refusal(unknown), refusal(wrong)) == ("not_found", "conflict")
        assert isinstance(fine, Submitted)

    async def test_one_bad_item_spares_five_hundred(self, hand: Hand) -> None:
        requests = [hand.submission(f"a{number:03}") for number in range(499)]
        requests.insert(250, hand.submission("bad", description="a\0b"))
        requests.insert(251, hand.submission("worse", max_attempts=0))
        outcomes = await hand.commit(*requests)
        assert [refusal(outcomes[n]) for n in (250, 251)] == ["rejected"] * 2
        created = [o for o in outcomes if isinstance(o, Submitted) and o.created]
        assert len(created) == 499
        assert await hand.ledger.log_position() == 499

    # --- bodies -----------------------------------------------------------------------

    @pytest.mark.parametrize("size", [40 * 1024, 1024 * 1024])
    async def test_large_bodies_survive(self, hand: Hand, size: int) -> None:
        text = "ä\N{GRINNING FACE}" * (size // 6)
        await hand.submit("a", description=text, payload=raw([text]))
        [claimed] = await hand.claim()
        assert claimed.description == text
        assert msgspec.json.decode(claimed.payload or "") == [text]
        done = await hand.acted("a", hand.completion(claimed.state, text), claimed.state)
        bodies = await hand.ledger.bodies(done)
        assert (bodies.description, bodies.result) == (text, text)
        assert done.result is None
        entries = await hand.ledger.task_events("a")
        assert max(len(entry.data) for entry in entries) < 1000

    @pytest.mark.parametrize(
        "payload",
        [
            b'{"$blob":"x"}',
            b'{"$blob":{"hash":"x","size":1}}',
            b'{"n":123456789012345678901234567890123456789}',
            '{"ä":"\N{GRINNING FACE}\\u0000"}'.encode(),
            b"1.10",
        ],
    )
    async def test_payloads_survive_byte_for_byte(self, hand: Hand, payload: bytes) -> None:
        await hand.submit("a", payload=msgspec.Raw(payload))
        [claimed] = await hand.claim()
        assert (claimed.payload or "").encode() == payload

    async def test_a_payload_of_null_is_none(self, hand: Hand) -> None:
        state = await hand.submit("a", payload=msgspec.Raw(b"null"))
        assert state.payload is None
        assert await hand.ledger.task("a") == state

    # --- queues, daemons, reads -------------------------------------------------------

    async def test_pausing_twice_is_one_event(self, hand: Hand) -> None:
        first, second = await hand.pause("q"), await hand.pause("q")
        assert isinstance(first, QueueSet)
        assert isinstance(second, QueueSet)
        assert (len(first.events), len(second.events)) == (1, 0)
        assert first.state == second.state
        [view] = await hand.ledger.queues()
        assert (view.name, view.paused, view.reason) == ("q", True, "because")

    async def test_a_daemon_writes_into_its_own_stream(self, hand: Hand) -> None:
        request = RecordDaemon(
            worker="w9", event=DaemonStopped(), now=hand.now(), origin=ORIGIN
        )
        outcomes = await hand.commit(request, request)
        assert outcomes == [Recorded(position=1), Recorded(position=2)]
        assert [entry.version for entry in await hand.ledger.log(after=0, limit=9)] == [
            1,
            2,
        ]

    async def test_lists_are_newest_first_in_pages(self, hand: Hand) -> None:
        for number in range(7):
            await hand.submit(f"a{number}", queue="odd" if number % 2 else "even")
        seen: list[str] = []
        cursor = None
        while True:
            page = await hand.ledger.tasks(TaskFilter(), limit=3, cursor=cursor)
            seen += [task.id for task in page.tasks]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert seen == [f"a{number}" for number in reversed(range(7))]
        odd = await hand.ledger.tasks(TaskFilter(queue="odd"), limit=9)
        assert [task.id for task in odd.tasks] == ["a5", "a3", "a1"]
        both = TaskFilter(statuses=("failed", "pending"), executor="work")
        assert len((await hand.ledger.tasks(both, limit=9)).tasks) == 7
        with pytest.raises(ValueError, match="cursor"):
            await hand.ledger.tasks(TaskFilter(), limit=3, cursor="nonsense")

    async def test_work_is_what_can_go_on_without_a_person(self, hand: Hand) -> None:
        async def has_work() -> bool:
            return await hand.ledger.has_work(("work",), ("judge",))

        assert not await has_work()
        await hand.submit("other", executor="missing")
        assert not await has_work()
        await hand.submit("a", run_at=hand.now() + MINUTE)
        assert await has_work()
        await hand.pause("default")
        assert not await has_work()

    async def test_depths_follow_the_tasks(self, hand: Hand) -> None:
        for task_id in ("a", "b"):
            await hand.submit(task_id)
        [claimed] = await hand.claim(1)
        [view] = await hand.ledger.queues()
        assert (view.depth["pending"], view.depth["in_progress"]) == (1, 1)
        assert view.oldest_ready_at is not None
        await hand.acted("a", hand.completion(claimed.state))
        counts = await hand.ledger.event_counts()
        assert counts == {"task.submitted": 2, "task.started": 1, "task.completed": 1}

    async def test_leases_are_renewed_fenced_and_retired(self, hand: Hand) -> None:
        ledger = hand.ledger
        [view] = await ledger.workers()
        assert not await ledger.fence_worker(hand.worker, only_if_expired=True)
        assert await ledger.renew_worker(hand.worker, 120.0)
        [renewed] = await ledger.workers()
        assert renewed.expires_at > view.expires_at
        assert await ledger.renew_worker(hand.worker, 0.0)
        assert await ledger.fence_worker(hand.worker, only_if_expired=True)
        await ledger.retire_worker(hand.worker)
        assert await ledger.workers() == []

    async def test_a_worker_says_anew_what_it_can_do(self, hand: Hand) -> None:
        assert await hand.ledger.advertise_worker(hand.worker, ("more", "work"), ())
        [view] = await hand.ledger.workers()
        assert (view.executors, view.verifiers) == (("more", "work"), ())

    async def test_a_fenced_worker_does_not_come_back_by_what_it_says(
        self, hand: Hand
    ) -> None:
        """Neither while its row is there, nor when it is gone."""
        ledger = hand.ledger
        assert await ledger.fence_worker(hand.worker, only_if_expired=False)
        assert not await ledger.advertise_worker(hand.worker, ("more",), ())
        await ledger.retire_worker(hand.worker)
        assert not await ledger.advertise_worker(hand.worker, ("more",), ())
        assert await ledger.workers() == []

    async def test_a_worker_that_holds_a_task_is_not_retired(self, hand: Hand) -> None:
        await hand.submit("a")
        await hand.claim()
        await hand.ledger.retire_worker(hand.worker)
        assert len(await hand.ledger.workers()) == 1

    async def test_a_census_is_what_two_reads_would_tell(self, hand: Hand) -> None:
        for task_id in ("a", "b", "c"):
            await hand.submit(task_id)
        await hand.claim(2)
        census = await hand.ledger.census(hand.worker, limit=1)
        assert census.workers == await hand.ledger.workers()
        assert census.held == await hand.ledger.held_by(hand.worker, limit=1)
        assert [len(census.workers), len(census.held)] == [1, 1]
        assert (await hand.ledger.census("stranger", limit=1)).held == []

    # --- repetition -------------------------------------------------------------------

    async def test_a_command_repeated_is_answered_from_the_log(self, hand: Hand) -> None:
        for task_id in ("a", "b", "c"):
            await hand.submit(task_id)
        [running] = await hand.claim(1)
        requests: list[Request] = [
            hand.act_request("a", hand.completion(running.state), running.state),
            hand.submission("d"),
            hand.act_request("c", c.Cancel(now=hand.now())),
            hand.claim_request(1),
        ]
        first = await hand.commit(*requests, command_id="once")
        position = await hand.ledger.log_position()
        again = await hand.commit(*requests, command_id="once")
        assert again == first
        assert await hand.ledger.log_position() == position

    async def test_a_claim_repeated_alone_is_answered_from_the_log(
        self, hand: Hand
    ) -> None:
        await hand.submit("a")
        request = hand.claim_request()
        first = await hand.commit(request, command_id="once")
        assert await hand.commit(request, command_id="once") == first

    async def test_news_follows_a_commit(self, hand: Hand) -> None:
        news = hand.ledger.news()
        for name in ("a", "b", "c"):
            await hand.submit(name)
            async with asyncio.timeout(NEWS_SECONDS / 2):
                await anext(news)
