"""Ids of traces and spans follow from the task alone."""

from __future__ import annotations

import msgspec
import pytest

from orchd.interfaces import TaskStatus
from orchd.tasks.state import Phase, TaskState
from orchd_ops.traces import identity

GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def task(**changes: object) -> TaskState:
    state = TaskState(
        id="a",
        version=1,
        namespace="default",
        status=TaskStatus.PENDING,
        phase=Phase.EXECUTE,
        queue="default",
        priority=0,
        lane=None,
        executor="work",
        verifiers=(),
        description="do a",
        description_blob=None,
        payload=None,
        payload_blob=None,
        metadata=None,
        labels=None,
        parent_id=None,
        idempotency_key=None,
        body_hash="",
        traceparent=None,
        max_attempts=3,
        execute_timeout_seconds=None,
        verify_timeout_seconds=None,
        created_at=1,
        updated_at=1,
        run_at=1,
    )
    return msgspec.structs.replace(state, **changes)


def test_a_valid_traceparent_is_read_and_written_unchanged() -> None:
    place = identity.parse(GIVEN)
    assert place is not None
    assert place.sampled
    assert str(place) == GIVEN


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "hello",
        GIVEN.upper(),
        GIVEN.replace("00-4", "ff-4"),
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
    ],
)
def test_an_invalid_traceparent_is_none(text: str | None) -> None:
    assert identity.parse(text) is None


def test_the_submitters_trace_is_the_tasks_trace() -> None:
    trace_id = identity.trace_id_of(task(traceparent=GIVEN))
    assert f"{trace_id:032x}" == "4bf92f3577b34da6a3ce929d0e0e4736"


def test_without_a_submitters_trace_the_task_has_one_of_its_own() -> None:
    first = identity.trace_id_of(task())
    assert first == identity.trace_id_of(task(runs=3, version=9))
    assert first != identity.trace_id_of(task(id="b"))
    assert first != identity.trace_id_of(task(created_at=2))


def test_every_span_of_a_run_has_another_id() -> None:
    ids = [
        identity.task_span_id("a", 1),
        identity.attempt_span_id("a", 1),
        identity.execute_span_id("a", 1),
        identity.chat_span_id("a", 1),
        identity.verify_span_id("a", 1, "judge"),
        identity.verify_span_id("a", 1, "jury"),
        identity.attempt_span_id("a", 2),
        identity.attempt_span_id("b", 1),
    ]
    assert len(set(ids)) == len(ids)
