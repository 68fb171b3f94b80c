"""What is left of a task's events when its bodies are erased."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from orchd.tasks import commands as c
from orchd.tasks import events as e
from orchd.tasks.erasing import ERASED_HASH, ERASED_TEXT, without_bodies
from orchd.tasks.machine import fold
from support.task_histories import START, History

GOLDEN = Path(__file__).parent / "golden_events.jsonl"
SECRET = "s3cr3t"
RAW = msgspec.Raw(json.dumps({"k": SECRET}).encode())

EVENTS = (
    e.TaskSubmitted(
        description=SECRET,
        payload=RAW,
        metadata=RAW,
        labels={"l": SECRET},
        executor="x",
        max_attempts=3,
        idempotency_key="key",
    ),
    e.TaskSubmitted(description=e.BlobReference("a" * 64, 5), executor="x", max_attempts=1),
    e.TaskExecuted(run=1, result=SECRET, result_metadata=RAW, confidence=0.5),
    e.TaskVerified(run=1, passed=False, verifier="v", feedback=SECRET, issues=(SECRET,)),
    e.TaskRetried(
        run=1,
        run_at=5,
        error_class="exception",
        error=SECRET,
        feedback=SECRET,
        fingerprint="f",
    ),
    e.TaskCompleted(run=1, token=2, result=SECRET, result_metadata=RAW),
    e.TaskFailed(run=1, error_class="exception", error=SECRET, feedback=SECRET),
    e.TaskReleased(run=1, reason="later", error_class="exception", error=SECRET),
)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_nothing_that_was_said_is_left_and_twice_is_once(event: e.TaskEvent) -> None:
    text = e.encode(without_bodies(event))
    assert SECRET not in text
    assert "a" * 64 not in text
    name = e.event_name(event)
    again = e.decode_event(name, text)
    assert without_bodies(again) == again
    assert e.encode(again) == text


def test_what_happened_is_left() -> None:
    submitted = without_bodies(EVENTS[0])
    assert isinstance(submitted, e.TaskSubmitted)
    assert submitted.description == e.BlobReference(ERASED_HASH, len(SECRET))
    assert submitted.idempotency_key == "key"
    failed = without_bodies(EVENTS[6])
    assert isinstance(failed, e.TaskFailed)
    assert (failed.error_class, failed.error) == ("exception", ERASED_TEXT)
    assert without_bodies(e.TaskCancelled(run=3)) == e.TaskCancelled(run=3)
    empty = e.TaskFailed(run=1, error_class="exception")
    assert without_bodies(empty) == empty


def test_events_of_every_kind_can_be_erased() -> None:
    for line in GOLDEN.read_text().splitlines():
        stored = json.loads(line)
        if stored["type"] not in e.EVENT_TYPES:
            continue
        event = e.decode_event(stored["type"], stored["data"])
        again = without_bodies(event)
        assert type(again) is type(event)


def _finished() -> History:
    history = History(description=SECRET, payload=RAW, verifiers=())
    history.start()
    history.fail(error=SECRET, final=True)
    return history


def erase(history: History, version: int) -> c.Erase:
    return c.Erase(now=START, version=version, erased=((1, "a", "b"),))


def test_only_a_finished_task_that_has_not_moved_is_erased() -> None:
    history = History()
    assert history.refuses(erase(history, 1)) == "conflict"
    history = _finished()
    assert history.refuses(erase(history, history.state.version - 1)) == "stale"
    before = history.state
    history.do(erase(history, before.version))
    assert history.names[-1] == "erased"
    assert history.state == msgspec.structs.replace(
        before, version=before.version + 1, updated_at=START
    )


def test_a_task_without_its_description_is_not_requeued() -> None:
    history = _finished()
    history.stream = [
        stamped._replace(event=without_bodies(stamped.event)) for stamped in history.stream
    ]
    history._state = fold(history.stream)
    assert history.state.description_blob == ERASED_HASH
    assert history.state.payload_blob == ERASED_HASH
    assert history.state.error == ERASED_TEXT
    assert history.refuses(c.Requeue(now=START)) == "conflict"
    history.do(c.Discard(now=START))
