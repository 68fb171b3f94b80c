"""Why a pending task is not ready."""

from typing import Any

import msgspec
import pytest

from orchd.breakers import BreakerState, Position
from orchd.interfaces import TaskStatus
from orchd.ledger.port import QueueView, WorkerView
from orchd.operations.reasons import why
from orchd.operations.surroundings import Obstacle, Surroundings, obstacle
from orchd.tasks.commands import Submit
from orchd.tasks.events import EventMeta, TaskSubmitted
from orchd.tasks.machine import Stamped, decide, evolve
from orchd.tasks.state import Phase, TaskState

NOW = 1_000_000_000


def task(**changes: Any) -> TaskState:
    submitted = TaskSubmitted(
        description="x", executor="count", verifiers=("judge",), max_attempts=3
    )
    (event,) = decide(None, Submit(now=NOW, submitted=submitted))
    state = evolve(None, Stamped("t", 1, event, EventMeta(schema=1, at=NOW)))
    return msgspec.structs.replace(state, **changes)


def worker(*, expires_at: int = NOW + 1, fenced: bool = False, **names: Any) -> WorkerView:
    fields: dict[str, Any] = {"executors": ("count",), "verifiers": ("judge",)} | names
    return WorkerView(
        id="w",
        host="h",
        boot_id="b",
        pid=1,
        process_start=None,
        release="",
        started_at=0,
        renewed_at=0,
        expires_at=expires_at,
        fenced=fenced,
        **fields,
    )


def queue(*, paused: bool = False, in_progress: int = 0) -> QueueView:
    return QueueView(
        name="default",
        paused=paused,
        reason="",
        depth={"in_progress": in_progress},
        oldest_ready_at=None,
        version=1,
        changed_at=None,
    )


def breaker(position: Position) -> BreakerState:
    return BreakerState(
        name="count",
        version=1,
        position=position,
        failures=5,
        error="down",
        until=NOW + 60,
        worker=None,
        changed_at=NOW,
    )


def around(**parts: Any) -> Surroundings:
    usual: dict[str, Any] = {
        "now": NOW, "queues": {}, "breakers": {}, "workers": [worker()], "limits": {},
    }  # fmt: skip
    return Surroundings(**(usual | parts))


CASES: list[tuple[str, dict[str, Any], dict[str, Any], Obstacle | None]] = [
    ("ready", {}, {}, None),
    (
        "time",
        {"waiting_reason": "time", "waiting_until": NOW + 1},
        {},
        Obstacle("time", NOW + 1, None),
    ),
    ("time is over", {"waiting_reason": "time", "waiting_until": NOW}, {}, None),
    (
        "approval",
        {"waiting_reason": "approval", "waiting_ref": "r"},
        {},
        Obstacle("approval", None, "r"),
    ),
    (
        "paused",
        {},
        {"queues": {"default": queue(paused=True)}},
        Obstacle("queue paused", None, "default"),
    ),
    (
        "missing",
        {},
        {"workers": [worker(executors=("other",))]},
        Obstacle("executor missing", None, "count"),
    ),
    ("nobody lives", {}, {"workers": []}, None),
    ("nobody lives any more", {}, {"workers": [worker(expires_at=NOW)]}, None),
    ("only a fenced one", {}, {"workers": [worker(fenced=True)]}, None),
    (
        "a verifier is missing",
        {"phase": Phase.VERIFY, "result": "r"},
        {"workers": [worker(verifiers=())]},
        Obstacle("executor missing", None, "verifier judge"),
    ),
    (
        "a verified result needs no executor",
        {"phase": Phase.VERIFY, "result": "r"},
        {"workers": [worker(executors=())]},
        None,
    ),
    (
        "breaker",
        {},
        {"breakers": {"count": breaker(Position.OPEN)}},
        Obstacle("breaker", NOW + 60, "count"),
    ),
    ("closed breaker", {}, {"breakers": {"count": breaker(Position.CLOSED)}}, None),
    (
        "limit",
        {},
        {"queues": {"default": queue(in_progress=2)}, "limits": {"default": 2}},
        Obstacle("limit", None, "default"),
    ),
    (
        "below the limit",
        {},
        {"queues": {"default": queue(in_progress=1)}, "limits": {"default": 2}},
        None,
    ),
    (
        "done",
        {"status": TaskStatus.COMPLETED},
        {"queues": {"default": queue(paused=True)}},
        None,
    ),
]


@pytest.mark.parametrize(
    ("changes", "parts", "expected"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_an_obstacle_is_found_where_there_is_one(
    changes: dict[str, Any], parts: dict[str, Any], expected: Obstacle | None
) -> None:
    assert obstacle(task(**changes), around(**parts)) == expected


@pytest.mark.parametrize("status", TaskStatus)
def test_every_status_has_its_reasons(status: TaskStatus) -> None:
    state = task(status=status, error="it broke\nhere", error_class="exception")
    reasons = why(state, around())
    assert reasons
    assert all(reason.endswith((".", state.id, "broke")) for reason in reasons), reasons
