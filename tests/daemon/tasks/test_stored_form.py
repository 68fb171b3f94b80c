"""The stored form of events: canonical, readable for ever, tolerant of what is new."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd import breakers, daemons, queues
from orchd.tasks import events as e
from orchd.tasks.machine import Stamped, evolve, split_body, split_payload
from support.task_histories import START, History, submitted

GOLDEN = Path(__file__).parent / "golden_events.jsonl"
KINDS: dict[str, type[Any]] = {
    **e.EVENT_TYPES,
    **queues.EVENT_TYPES,
    **breakers.EVENT_TYPES,
    **daemons.EVENT_TYPES,
}
REQUIRED = {
    "task.submitted": '{"description":"d","executor":"x","max_attempts":3}',
    "task.started": '{"attempt":1,"phase":"execute","run":1,"token":2,"worker":"w"}',
    "task.executed": '{"result":"r","run":1}',
    "task.verified": '{"passed":true,"run":1,"verifier":"v"}',
    "task.retried": '{"error_class":"timeout","run":1,"run_at":5}',
    "task.completed": '{"run":1,"token":2}',
    "task.failed": '{"error_class":"timeout","run":1}',
    "task.released": '{"reason":"drain","run":1}',
    "task.cancel_requested": "{}",
    "task.cancelled": "{}",
    "task.requeued": '{"round":2}',
    "task.discarded": "{}",
    "task.late_result_rejected": '{"report":"Complete","run":1,"token":2}',
    "task.erased": "{}",
}
"""The least that each event of format v1 holds. A new field must not be required."""

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def canonical(value: Any) -> str:
    """Return canonical JSON, made by other means than the code under test."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def decode(name: str, data: str) -> Any:
    if name in e.EVENT_TYPES:
        return e.decode_event(name, data)
    return msgspec.json.decode(data, type=KINDS[name])


def golden() -> list[dict[str, str]]:
    return [json.loads(line) for line in GOLDEN.read_text().splitlines()]


# --- golden ---------------------------------------------------------------------------


def test_every_golden_event_of_format_v1_reads_and_is_written_alike() -> None:
    """These lines are never changed: they stand for logs that exist."""
    for line in golden():
        assert e.encode(decode(line["type"], line["data"])) == line["data"]
        meta = e.decode_meta(line["meta"])
        assert (meta.schema, e.encode(meta)) == (1, line["meta"])


def test_there_is_a_golden_event_of_every_type() -> None:
    assert {line["type"] for line in golden()} == set(KINDS)


def test_golden_events_hold_every_field() -> None:
    held: dict[str, set[str]] = {name: set() for name in KINDS}
    for line in golden():
        held[line["type"]] |= set(json.loads(line["data"]))
    for name, kind in KINDS.items():
        assert held[name] == {field.encode_name for field in msgspec.structs.fields(kind)}


def test_the_golden_task_events_fold() -> None:
    state = None
    for version, line in enumerate(golden(), start=1):
        if line["type"] in e.EVENT_TYPES:
            event = e.decode_event(line["type"], line["data"])
            state = evolve(state, Stamped("t", version, event, e.decode_meta(line["meta"])))
    assert state is not None
    assert state.description == "count the words"


# --- tolerance ------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(e.EVENT_TYPES))
def test_missing_fields_have_their_defaults(name: str) -> None:
    event = e.decode_event(name, REQUIRED[name])
    assert e.encode(event) == REQUIRED[name]


@pytest.mark.parametrize("name", sorted(e.EVENT_TYPES))
def test_fields_of_a_newer_release_are_ignored(name: str) -> None:
    newer = json.loads(REQUIRED[name]) | {"a_new_field": {"deep": [1]}}
    assert e.decode_event(name, canonical(newer)) == e.decode_event(name, REQUIRED[name])


def test_meta_of_a_newer_release_is_read() -> None:
    assert e.decode_meta('{"at":1,"new":2,"schema":1}') == e.EventMeta(schema=1, at=1)


def test_an_unknown_event_is_not_guessed() -> None:
    with pytest.raises(KeyError):
        e.decode_event("task.teleported", "{}")


@pytest.mark.parametrize("name", sorted(KINDS))
def test_the_types_are_named_as_they_are_stored(name: str) -> None:
    words = KINDS[name].__name__
    snake = "".join(f"_{char.lower()}" if char.isupper() else char for char in words)[1:]
    assert snake == name.replace(".", "_", 1)


# --- canonical text -------------------------------------------------------------------


@given(
    st.builds(
        submitted,
        description=TEXT,
        labels=st.dictionaries(TEXT, TEXT, max_size=5),
        priority=st.integers(-(2**63), 2**63 - 1),
        idempotency_key=st.none() | TEXT,
        max_attempts=st.integers(1, 2**31),
        execute_timeout_seconds=st.none() | st.integers(0, 10**9).map(float),
    )
)
def test_stored_text_is_canonical_and_complete(event: e.TaskSubmitted) -> None:
    text = e.encode(event)
    assert text == canonical(json.loads(text))
    assert e.decode_event("task.submitted", text) == event


@given(JSON_VALUES.filter(lambda value: value is not None))
def test_any_json_payload_comes_out_as_it_went_in(value: Any) -> None:
    text = canonical(value)
    history = History(payload=msgspec.Raw(text.encode()))
    assert json.loads(e.encode(history.stream[0].event))["payload"] == value
    assert history.state.payload == text
    history.refold()


@pytest.mark.parametrize(
    "text",
    [
        str(10**40),
        str(-(2**64)),
        "1.0",
        "1E400",
        "[" * 64 + "]" * 64,
        '{"a":' * 64 + "0" + "}" * 64,
        '"\\u0000\U0001f600é"',
        '{"b":1,"a":1,"a":2}',
        '{"$blob":5}',
        '{"$blob":"x"}',
        '{"$blob":"x","other":1}',
        '{"a":{"$blob":"x","size":1}}',
        '{"$blob2":"x"}',
        "false",
        "0",
        '""',
        "[]",
    ],
)
def test_a_payload_keeps_its_very_text(text: str) -> None:
    history = History(payload=msgspec.Raw(text.encode()))
    assert (history.state.payload, history.state.payload_blob) == (text, None)


def test_a_payload_of_null_is_none() -> None:
    assert split_payload(msgspec.Raw(b"null")) == split_payload(None) == (None, None)


def test_a_reference_stands_for_a_body_wherever_it_is_stored() -> None:
    reference = e.BlobReference(hash="ab" * 32, size=40_000)
    text = msgspec.json.encode(reference)
    assert text.startswith(e.REFERENCE_MARK.encode())
    history = History(description=reference, payload=msgspec.Raw(text))
    state = history.state
    assert (state.description_blob, state.payload_blob) == (reference.hash,) * 2
    assert (state.description, state.payload) == (None, None)
    assert split_body(reference) == (None, reference.hash)
    assert split_body("text") == ("text", None)


def test_labels_are_kept_in_one_order() -> None:
    state = History(labels={"b": "2", "a": "1"}).state
    assert state.labels == '{"a":"1","b":"2"}'
    assert History().state.labels is None


def test_the_time_in_meta_is_the_time_of_the_state() -> None:
    history = History()
    assert (history.state.created_at, history.state.updated_at) == (START, START)
