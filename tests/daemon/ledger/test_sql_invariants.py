"""Rows, counters and derived tables of the SQL ledger always follow from its log."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from orchd.interfaces import TaskStatus
from orchd.ledger import creation, listing
from orchd.ledger.claiming import Claims
from orchd.ledger.fresh import TOLD_COLUMNS
from orchd.ledger.opening import open_ledger
from orchd.ledger.port import (
    Acted,
    Claimed,
    ClaimTasks,
    LedgerUnavailable,
    Refusal,
    Request,
    TaskFilter,
)
from orchd.ledger.reads import Reads
from orchd.ledger.resolution import stamped
from orchd.ledger.rows import TASK_COLUMNS, columns, task_row, task_state
from orchd.ledger.sql import SQLLedger
from orchd.system import RealSystem
from orchd.tasks import commands as c
from orchd.tasks.failures import ErrorClass
from orchd.tasks.machine import fold
from orchd.tasks.state import ReleaseReason, TaskState
from orchd_eventstore import OutcomeUnknown, Session
from support.eventstores import connected, waiting_backends
from support.ledgers import Hand, owned
from support.waiting import until

IDS = ("a", "b", "c")


def make(url: str) -> SQLLedger:
    return open_ledger(url, system=RealSystem(), access="write", create=True, migrate=True)


@pytest.fixture
async def ledger(database_url: str) -> AsyncIterator[SQLLedger]:
    ledger = make(database_url)
    yield ledger
    await ledger.close()


def rows_of(ledger: SQLLedger, query: str) -> list[tuple[Any, ...]]:
    with ledger.store.connect_reader() as connection:
        return [tuple(row) for row in connection.execute(query).fetchall()]


def require_consistent(ledger: SQLLedger) -> None:
    """Fail unless rows, counters and derived tables follow from the log."""
    states = [
        task_state(row)
        for row in rows_of(ledger, f"SELECT {columns(TASK_COLUMNS)} FROM tasks")
    ]
    for state in states:
        assert fold(stamped(ledger.store.read_stream(f"task-{state.id}"))) == state
    depth = Counter(f"queue/{s.queue}/{s.status.value}" for s in states)
    types = Counter(f"events/{event.type}" for event in ledger.store.read_all(limit=10**6))
    counted = {name: value for name, value in ledger.store.counters().items() if value}
    assert counted == dict(depth + types)
    pending = [s for s in states if s.status is TaskStatus.PENDING]
    ready = {s.id for s in pending if s.waiting_reason is None}
    timed = {s.id for s in pending if s.waiting_until is not None}
    found_ready = {row[0] for row in rows_of(ledger, "SELECT task_id FROM ready")}
    found_timed = {row[0] for row in rows_of(ledger, "SELECT task_id FROM timers")}
    # A timer that was due may have been promoted; its row does not tell.
    assert ready <= found_ready <= ready | timed
    assert found_ready | found_timed == ready | timed
    assert not found_ready & found_timed
    require_listed(ledger, states)
    assert ledger.store.verify().bad is None


def require_listed(ledger: SQLLedger, states: list[TaskState]) -> None:
    """Fail unless the tables by status, and the lists made of them, hold these states."""
    running = rows_of(ledger, "SELECT task_id, worker, cancel_requested FROM running")
    assert {(task, worker, bool(asked)) for task, worker, asked in running} == {
        (s.id, s.worker, s.cancel_requested)
        for s in states
        if s.status is TaskStatus.IN_PROGRESS
    }
    aside = rows_of(ledger, "SELECT task_id, status, created_at FROM aside")
    unsuccessful = (TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.DISCARDED)
    assert set(aside) == {
        (s.id, s.status.value, s.created_at)
        for s in states
        if s.status in unsuccessful or (s.waiting_reason and s.waiting_until is None)
    }
    for statuses in [(), *((s.value,) for s in TaskStatus), *LISTED_TOGETHER]:
        wanted = [s for s in states if not statuses or s.status.value in statuses]
        wanted.sort(key=lambda state: (state.created_at, state.id), reverse=True)
        assert list(pages(ledger, statuses)) == wanted


LISTED_TOGETHER = (
    ("pending", "in_progress"),
    ("failed", "completed"),
    ("failed", "cancelled"),
)


def pages(ledger: SQLLedger, statuses: tuple[str, ...]) -> Iterator[TaskState]:
    """Yield the tasks of a list, page by page."""
    reads, cursor = Reads(ledger.store, ledger.dialect), None
    while True:
        page = reads.tasks(TaskFilter(statuses=statuses), 2, cursor)
        yield from page.tasks
        cursor = page.next_cursor
        if cursor is None:
            return


Step = Callable[[Hand, str, dict[str, Any]], Request]


def _run(build: Callable[..., c.TaskCommand], **fixed: Any) -> Step:
    def request(hand: Hand, task_id: str, tokens: dict[str, Any]) -> Request:
        given = tokens.get(task_id, {"token": 1, "run": 1})
        known = tokens.get(f"known-{task_id}")
        return hand.act_request(task_id, build(now=hand.now(), **fixed, **given), known)

    return request


def _plain(build: Callable[..., c.TaskCommand], **fixed: Any) -> Step:
    return lambda hand, task_id, tokens: hand.act_request(
        task_id, build(now=hand.now(), **fixed)
    )


OUTPUT = c.Output(result="r" * 40_000, confidence=0.1)
VERDICT = c.Verdict(verifier="judge", feedback="no")
STEPS: dict[str, Step] = {
    "submit": lambda hand, task_id, tokens: hand.submission(
        task_id, max_attempts=2, idempotency_key=f"key-{task_id}"
    ),
    "claim": lambda hand, task_id, tokens: hand.claim_request(2),
    "result": _run(c.RecordResult, output=OUTPUT),
    "passed": _run(c.RecordPass, verdict=c.Verdict(verifier="judge")),
    "complete": _run(c.Complete, output=OUTPUT),
    "verified": _run(c.Complete, verdict=c.Verdict(verifier="judge")),
    "refuse": _run(c.Refuse, verdict=VERDICT, retry_at=0, output=OUTPUT),
    "fail": _run(c.Fail, error_class=ErrorClass.EXCEPTION, error="boom", retry_at=0),
    "fail later": _run(
        c.Fail, error_class=ErrorClass.TIMEOUT, error="slow", retry_at=2**50
    ),
    "broken": _run(
        c.FailVerification, verifier="judge", error="x", retry_at=0, max_verify_errors=2
    ),
    "release": _run(c.Release, reason=ReleaseReason.LATER, until=2**50, max_deferrals=1),
    "confirm": _run(c.ConfirmCancel),
    "recover": _plain(c.Recover, worker="w1"),
    "cancel": _plain(c.Cancel),
    "requeue": _plain(c.Requeue),
    "discard": _plain(c.Discard),
}
MOVES = st.lists(
    st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.sampled_from(IDS)), max_size=5),
    min_size=3,
    max_size=12,
)


def test_rows_follow_from_the_log_whatever_is_asked(
    database_url_factory: Callable[[], str],
) -> None:
    @settings(max_examples=25)
    @given(MOVES)
    def check(batches: list[list[tuple[str, str]]]) -> None:
        asyncio.run(play(database_url_factory(), batches))

    check()


async def play(url: str, batches: list[list[tuple[str, str]]]) -> None:
    ledger = make(url)
    try:
        hand = Hand(ledger)
        await hand.register()
        await hand.commit(*(STEPS["submit"](hand, task_id, {}) for task_id in IDS))
        tokens: dict[str, Any] = {}
        for batch in batches:
            requests = [STEPS[name](hand, task_id, tokens) for name, task_id in batch]
            for outcome in await hand.commit(*requests):
                remember(outcome, tokens)
        require_consistent(ledger)
    finally:
        await ledger.close()


def remember(outcome: Any, tokens: dict[str, Any]) -> None:
    """Keep what a worker would know, so that it grows stale as it would."""
    if isinstance(outcome, Claimed):
        for task in outcome.tasks:
            tokens[task.state.id] = owned(task.state)
            tokens[f"known-{task.state.id}"] = task.state
    if isinstance(outcome, Acted) and outcome.state.token is not None:
        tokens[f"known-{outcome.state.id}"] = outcome.state


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url_factory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], str]:
    """Give the URL of another empty database at every call."""
    if request.param == "sqlite":
        return lambda: f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'orchd.db'}"
    server = request.getfixturevalue("postgres_server")

    def database() -> str:
        name = server.create_database()
        request.addfinalizer(lambda: server.retire_database(name))
        url: str = server.database_url(name)
        return url

    return database


# --- an outcome that stays unknown ----------------------------------------------------


@pytest.mark.parametrize("is_stored", [True, False], ids=["stored", "not-stored"])
async def test_a_lost_answer_is_found_or_the_work_is_done_once(
    ledger: SQLLedger, monkeypatch: pytest.MonkeyPatch, is_stored: bool
) -> None:
    hand = Hand(ledger)
    await hand.register()
    for task_id in ("a", "b", "c"):
        await hand.submit(task_id)
    [running] = await hand.claim(1)
    done = hand.act_request("a", hand.completion(running.state), running.state)
    lose_answers(monkeypatch, is_stored)
    with pytest.raises(LedgerUnavailable):
        await hand.commit(done, hand.claim_request(1), command_id="lost")
    monkeypatch.undo()
    acted, claimed = await hand.commit(done, hand.claim_request(1), command_id="lost")
    assert isinstance(acted, Acted)
    assert acted.state.status is TaskStatus.COMPLETED
    assert isinstance(claimed, Claimed)
    assert [task.state.id for task in claimed.tasks] == ["b"]
    assert (await hand.types("a"), await hand.types("b")) == (
        ["submitted", "started", "completed"],
        ["submitted", "started"],
    )
    require_consistent(ledger)


@pytest.mark.parametrize("is_stored", [True, False], ids=["stored", "not-stored"])
async def test_a_lost_answer_without_claims_repeats_the_identical_batch(
    ledger: SQLLedger, monkeypatch: pytest.MonkeyPatch, is_stored: bool
) -> None:
    hand = Hand(ledger)
    requests = [hand.submission("a"), hand.submission("b")]
    lose_answers(monkeypatch, is_stored)
    with pytest.raises(LedgerUnavailable):
        await hand.commit(*requests, command_id="lost")
    monkeypatch.undo()
    outcomes = await hand.commit(*requests, command_id="lost")
    assert [getattr(outcome, "created", None) for outcome in outcomes] == [True, True]
    assert await ledger.log_position() == 2


def lose_answers(monkeypatch: pytest.MonkeyPatch, is_stored: bool) -> None:
    """Make every append lose its answer, after it was carried out or before."""
    append = Session.append

    def lost(self: Session, *args: Any, **kwargs: Any) -> Any:
        if is_stored:
            append(self, *args, **kwargs)
        raise OutcomeUnknown("cut off")

    monkeypatch.setattr(Session, "append", lost)


# --- several daemons on one PostgreSQL ------------------------------------------------


async def test_two_workers_never_claim_the_same_task(postgres_url: str) -> None:
    hands = [Hand(make(postgres_url), f"w{number}") for number in range(2)]
    for hand in hands:
        await hand.register()
    await hands[0].commit(*(hands[0].submission(f"t{n:03}") for n in range(200)))

    async def claim_all(hand: Hand) -> list[str]:
        taken: list[str] = []
        misses = 0
        while misses < 3:
            found = await hand.claim_ids(7)
            taken += found
            misses = 0 if found else misses + 1
        return taken

    first, second = await asyncio.gather(*map(claim_all, hands))
    assert sorted(first + second) == [f"t{n:03}" for n in range(200)]
    require_consistent(hands[0].ledger)  # type: ignore[arg-type]  # it was made above
    for hand in hands:
        await hand.ledger.close()


async def test_a_claim_passes_over_a_task_that_somebody_else_holds(
    postgres_url: str,
) -> None:
    hand = Hand(make(postgres_url))
    await hand.register()
    for name in "ab":
        await hand.submit(name)
    with connected(postgres_url) as holder:
        holder.exec_driver_sql("SELECT 1 FROM tasks WHERE id = 'a' FOR UPDATE")
        claim = asyncio.create_task(hand.claim_ids())
        in_time, _ = await asyncio.wait((claim,), timeout=5)
    assert in_time, "a claim waits for a task that somebody else holds"
    assert await claim == ["b"]
    await hand.ledger.close()


async def test_a_release_that_does_not_ask_for_brief_rows_is_told_whole_ones(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon of an older release works on while the schema is already the new one."""
    told: list[int] = []

    def read(self: Claims, answer: bytes) -> None:
        for claimed in msgspec.json.decode(answer):
            told.extend(map(len, claimed["tasks"]))
        take_over(self, answer)

    def older(self: Claims, claim: ClaimTasks) -> dict[str, Any]:
        wanted = ask(self, claim)
        del wanted["brief"]
        return wanted

    ask, take_over = Claims._wanted, Claims.read
    hand = Hand(make(postgres_url))
    await hand.register()
    await hand.commit(*map(hand.submission, "abc"))
    with monkeypatch.context() as patch:
        patch.setattr(Claims, "read", read)
        assert await hand.claim_ids(1) == ["a"]
        patch.setattr(Claims, "_wanted", older)
        assert await hand.claim_ids(1) == ["b"]
    assert told == [len(TOLD_COLUMNS), len(TASK_COLUMNS)]
    assert await hand.claim_ids() == ["c"]
    await hand.ledger.close()


async def test_a_limit_is_exact_with_four_claimers(postgres_url: str) -> None:
    hands = [Hand(make(postgres_url), f"w{number}") for number in range(4)]
    for hand in hands:
        await hand.register()
    await hands[0].commit(
        *(hands[0].submission(f"t{n:02}", queue="narrow") for n in range(60))
    )
    most = 0

    async def work(hand: Hand) -> int:
        nonlocal most
        done = 0
        for _ in range(40):
            tasks = await hand.claim(3, limits={"narrow": 3})
            views = {view.name: view.depth for view in await hand.ledger.queues()}
            most = max(most, views["narrow"]["in_progress"])
            for task in tasks:
                await hand.acted(task.state.id, hand.completion(task.state), task.state)
            done += len(tasks)
        return done

    done = await asyncio.gather(*map(work, hands))
    assert sum(done) == 60
    assert most == 3
    for hand in hands:
        await hand.ledger.close()


async def test_writers_that_fight_over_the_same_tasks_all_get_on(postgres_url: str) -> None:
    hands = [Hand(make(postgres_url), f"w{number}") for number in range(4)]
    for hand in hands:
        await hand.register()
    ids = [f"t{n}" for n in range(8)]
    await hands[0].commit(*(hands[0].submission(task_id) for task_id in ids))

    async def fight(hand: Hand, order: list[str]) -> int:
        answered = 0
        for _ in range(15):
            held = await hand.claim(4)
            requests = [
                hand.act_request(
                    task.state.id,
                    c.Release(
                        now=hand.now(), reason=ReleaseReason.DRAIN, **owned(task.state)
                    ),
                    task.state,
                )
                for task in held
            ]
            requests += [
                hand.act_request(task_id, c.Recover(now=hand.now(), worker="w0"))
                for task_id in order
            ]
            outcomes = await hand.commit(*requests)
            answered += sum(isinstance(o, Acted | Refusal) for o in outcomes)
        return answered

    orders = [ids, ids[::-1], ids[4:] + ids[:4], ids]
    counts = await asyncio.gather(*map(fight, hands, orders))
    assert all(count >= 15 * len(ids) for count in counts)
    require_consistent(hands[0].ledger)  # type: ignore[arg-type]  # it was made above
    for hand in hands:
        await hand.ledger.close()


async def test_commits_that_cross_wait_for_each_other_in_one_order(
    postgres_url: str,
) -> None:
    """The server would end a deadlock after a second, at the cost of one of them."""
    ledgers = [make(postgres_url) for _ in range(2)]
    hands = [Hand(ledger, "w1") for ledger in ledgers]
    states = {name: await hands[0].submit(name) for name in "abz"}
    with connected(postgres_url) as holder:
        holder.exec_driver_sql("SELECT 1 FROM tasks WHERE id = 'z' FOR UPDATE")
        commits = []
        for hand, names in zip(hands, ("azb", "bza"), strict=True):
            cancel = c.Cancel(now=hand.now())
            requests = [hand.act_request(name, cancel, states[name]) for name in names]
            commits.append(asyncio.create_task(hand.commit(*requests)))
            await asyncio.to_thread(waiting_backends, postgres_url, len(commits))
    outcomes = [*await commits[0], *await commits[1]]
    assert all(isinstance(outcome, Acted) for outcome in outcomes)
    [(deadlocks,)] = rows_of(
        ledgers[0],
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()",
    )
    assert deadlocks == 0, "two commits locked each other out"
    for ledger in ledgers:
        await ledger.close()


async def test_work_is_found_although_it_moves_meanwhile(
    ledger: SQLLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Places were looked at one after the other, and a task had moved to an earlier one."""
    hand = Hand(ledger)
    await hand.register()
    await hand.submit("a")
    loop, rows = asyncio.get_running_loop(), Reads._rows

    def move_after(reads: Reads, text: str, *parameters: Any) -> Any:
        found = rows(reads, text, *parameters)
        asyncio.run_coroutine_threadsafe(hand.claim(), loop).result()
        return found

    monkeypatch.setattr(Reads, "_rows", move_after)
    assert await ledger.has_work(("work",), ("judge",))


# --- rows that must not exist ---------------------------------------------------------

ILLEGAL: dict[str, dict[str, Any]] = {
    "status": {"status": "lost"},
    "phase": {"phase": "guess"},
    "version": {"version": 0},
    "round": {"round": 0},
    "runs": {"runs": -1},
    "attempts": {"attempts": 4},
    "max_attempts": {"max_attempts": 0},
    "counts": {"crashes": -1},
    "holder": {"worker": "w1"},
    "token": {
        "status": "in_progress",
        "token": 2,
        "worker": "w1",
        "started_at": 1,
    },
    "waiting": {"waiting_until": 5},
    "finished": {"finished_at": 5},
    "completed": {"status": "completed", "finished_at": 5},
    "verify": {"phase": "verify"},
    "error": {"status": "failed", "finished_at": 5},
    "description": {"description": None},
    "payload": {"payload": "1", "payload_blob": "x"},
    "result": {"result": "r", "result_blob": "x"},
}


def test_every_rule_of_a_task_has_a_row_that_breaks_it() -> None:
    rules = {
        constraint.name
        for constraint in creation.tasks.constraints
        if isinstance(constraint, sa.CheckConstraint)
    }
    assert rules == {f"tasks_{name}_check" for name in ILLEGAL}


@pytest.mark.parametrize("rule", sorted(ILLEGAL))
async def test_an_illegal_row_of_a_task_is_refused(database_url: str, rule: str) -> None:
    ledger = make(database_url)
    row = task_row(await Hand(ledger).submit("a"))
    await ledger.close()
    engine = sa.create_engine(database_url)
    insert = creation.tasks.insert()
    try:
        with engine.begin() as connection:
            connection.execute(insert.values(row | {"id": "b"}))
        with engine.connect() as connection:
            with pytest.raises(sa.exc.IntegrityError, match=f"tasks_{rule}_check"):
                connection.execute(insert.values(row | {"id": "c"} | ILLEGAL[rule]))
    finally:
        engine.dispose()


async def test_where_many_tasks_wait_a_list_goes_along_their_creation(
    ledger: SQLLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = Hand(ledger)
    await hand.register()
    for name in IDS:
        await hand.submit(name)
    await hand.claimed(1)
    states = [state for name in IDS if (state := await ledger.task(name)) is not None]
    for most in (0, 10):
        monkeypatch.setattr(listing, "SORTED_MAX", most)
        require_listed(ledger, states)


async def test_a_start_and_an_end_leave_all_indexes_of_tasks_alone(
    postgres_url: str,
) -> None:
    """PostgreSQL counts an update as in place only when no index needs a new entry."""
    ledger = make(postgres_url)
    hand = Hand(ledger)
    await hand.register()
    for number in range(5):
        await hand.submit(f"t{number}")
        [claimed] = (await hand.claimed(1)).tasks
        await hand.acted(claimed.state.id, hand.completion(claimed.state))
    counts = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables"

    def updates() -> tuple[int, int]:
        [found] = rows_of(ledger, f"{counts} WHERE relname = 'tasks'")
        return found[0], found[1]

    await until(lambda: updates()[0] == 10)
    assert updates() == (10, 10)
    await ledger.close()


async def test_a_claim_beside_what_the_database_refuses_claims_once(
    ledger: SQLLedger,
) -> None:
    """The events of a batch are stored after its claims have searched."""
    hand = Hand(ledger)
    await hand.register()
    await hand.submit("a")
    [claimed] = (await hand.claimed(1)).tasks
    await hand.submit("b")
    copied = "version + 1, type, data, meta, recorded_at FROM events WHERE version = 2"
    with ledger.store.transaction() as transaction:
        # The stream is one event ahead of its row: nothing can be appended to it.
        transaction.execute(f"INSERT INTO events SELECT 999, stream, {copied}")
        transaction.commit()
    ending = hand.act_request("a", hand.completion(claimed.state), claimed.state)
    refused, found = await hand.commit(ending, hand.claim_request())
    assert isinstance(refused, Refusal)
    assert refused.code == "rejected"
    assert isinstance(found, Claimed)
    assert [task.state.id for task in found.tasks] == ["b"]
    assert await hand.types("b") == ["submitted", "started"]
