"""What becomes of a submission before it reaches the ledger."""

import json
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchd.config.settings import (
    BUILT_IN_EXECUTORS,
    BUILT_IN_VERIFIERS,
    ExecutorSettings,
    RetrySettings,
    Settings,
    TaskSettings,
)
from orchd.operations import json_text
from orchd.operations.errors import Invalid, NotJSON, OperationError, TooLarge
from orchd.operations.json_text import canonical_json, canonical_object, read_json
from orchd.operations.submission import Known, Resolved, read_submission, resolve

NOW = 1_800_000_000_000_000
COUNT = ExecutorSettings(
    name="count",
    type="command",
    timeout_seconds=60.0,
    verify_timeout_seconds=7.0,
    retry=RetrySettings(max_attempts=9),
)


def configured(*executors: ExecutorSettings, **options: Any) -> Settings:
    own = {executor.name: executor for executor in executors}
    return Settings(
        database="sqlite://",
        executors={**BUILT_IN_EXECUTORS, **own},
        verifiers=BUILT_IN_VERIFIERS,
        **options,
    )


def resolved(body: dict[str, Any], configuration: Settings, *live: str) -> Resolved:
    submission, text = read_submission(body)
    known = Known(
        frozenset(configuration.executors) | set(live), frozenset(configuration.verifiers)
    )
    return resolve(submission, text, settings=configuration, known=known, now=NOW)


def test_the_only_configured_executor_is_the_default() -> None:
    task = resolved({"description": "x"}, configured(COUNT)).submitted
    assert task.executor == "count"
    assert (task.max_attempts, task.execute_timeout_seconds) == (9, 60.0)
    assert task.verify_timeout_seconds == 7.0


def test_the_only_executor_of_the_live_daemons_is_the_default() -> None:
    assert resolved({"description": "x"}, configured(), "far").submitted.executor == "far"


def test_the_configured_default_goes_before_the_only_one() -> None:
    tasks = TaskSettings(executor="echo", verifiers=("always-pass",))
    task = resolved({"description": "x"}, configured(COUNT, tasks=tasks)).submitted
    assert (task.executor, task.verifiers) == ("echo", ("always-pass",))
    task = resolved(
        {"description": "x", "verifiers": []}, configured(COUNT, tasks=tasks)
    ).submitted
    assert task.verifiers == ()


@pytest.mark.parametrize("live", [(), ("a", "b")])
def test_without_one_default_the_refusal_lists_the_names(live: tuple[str, ...]) -> None:
    with pytest.raises(Invalid) as error:
        resolved({"description": "x"}, configured(), *live)
    assert error.value.faults[0].field == "executor"
    for name in ("echo", "fake", *live):
        assert name in error.value.detail


def test_what_the_submitter_says_goes_before_every_default() -> None:
    body = {"description": "x", "delay": "5m", "timeout": "1s", "max_attempts": 2}
    task = resolved(body, configured(COUNT)).submitted
    assert task.run_at == NOW + 300_000_000
    assert (task.execute_timeout_seconds, task.max_attempts) == (1.0, 2)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"priority": 3}, {"priority": 3.0}, True),
        ({"id": "a"}, {"id": "b"}, True),
        ({"idempotency_key": "a"}, {}, True),
        ({"queue": None}, {}, True),
        ({"metadata": {"a": 1, "b": 2}}, {"metadata": {"b": 2, "a": 1}}, True),
        ({"delay": "60s"}, {"delay": "1m"}, False),
        ({"payload": 1}, {"payload": 1.0}, False),
        ({"payload": 1}, {"payload": True}, False),
        ({"queue": "default"}, {}, False),
    ],
)
def test_two_submissions_are_the_same_when_their_bodies_are(
    one: dict[str, Any], other: dict[str, Any], same: bool
) -> None:
    def body_hash(fields: dict[str, Any]) -> str:
        return resolved(
            {"description": "x", **fields}, configured(COUNT)
        ).submitted.body_hash

    assert (body_hash(one) == body_hash(other)) is same


def test_a_task_of_exactly_one_mebibyte_is_taken() -> None:
    room = 1024 * 1024 - len('{"description":""}')
    read_submission({"description": "x" * room})
    with pytest.raises(TooLarge):
        read_submission({"description": "x" * (room + 1)})
    with pytest.raises(TooLarge):
        read_submission({"description": "é" * (room // 2 + 1)})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
FIELDS = (
    "id", "idempotency_key", "description", "payload", "executor", "verifiers", "queue",
    "priority", "run_at", "delay", "timeout", "max_attempts", "metadata", "traceparent",
    "x",
)  # fmt: skip


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON) | JSON)
def test_no_value_is_met_with_anything_but_acceptance_or_an_operation_error(
    body: Any,
) -> None:
    try:
        task = resolved(body, configured(COUNT)).submitted
    except OperationError:
        return
    assert task.payload is None or read_json(bytes(task.payload)) == body["payload"]


@settings(max_examples=300)
@given(st.binary() | st.text().map(str.encode))
def test_no_bytes_are_met_with_anything_but_a_value_or_an_operation_error(
    body: bytes,
) -> None:
    with suppress(NotJSON, Invalid):
        read_json(body)


ODD_JSON = st.sampled_from(
    [
        b"\xef\xbb\xbf{}", b'"\\ud800"', b'"\\ud83d\\ude00"', b"1e400", b"-0", b"-0.0",
        b"1E5", b"9" * 4300, b"9" * 4301, b"18446744073709551616", b"NaN", b"[1,]",
        b'{"a":1,"a":2}', b'"\xed\xa0\x80"', b'"\xff"', b"\x0c1", b"[" * 5000,
        b"1.7976931348623159e308", b"9007199254740993.0", b"2.5e-324", b" 1\t\r\n",
        b"123456789012345678901234567890.5",
    ]
)  # fmt: skip
NUMBERS = st.floats().map(repr).map(str.encode)


@settings(max_examples=500)
@given(JSON.map(json.dumps).map(str.encode) | ODD_JSON | NUMBERS | st.binary())
def test_a_body_is_read_as_the_standard_library_reads_it(body: bytes) -> None:
    """Else the hash of a submission would depend on who read it."""

    def read(by: Any) -> tuple[str, str]:
        try:
            value = by(body)
        except OperationError as error:
            return type(error).__name__, error.detail
        return "value", repr(value)

    assert read(read_json) == read(json_text._read_slowly)


@given(st.dictionaries(st.text(), JSON))
def test_an_object_has_one_canonical_text_however_it_is_put_together(
    fields: dict[str, Any],
) -> None:
    try:
        text = canonical_json(fields)
    except Invalid as error:
        with pytest.raises(Invalid, match=f"^{re.escape(error.detail)}$"):
            canonical_object(fields)
        return
    whole, texts = canonical_object(fields)
    assert whole == text.encode()
    assert texts == {name: canonical_json(value) for name, value in fields.items()}


def test_the_canonical_text_is_what_it_always_was() -> None:
    """Stored hashes are compared with those of later repetitions."""
    value = {
        "ü": [1, 1.0, 1e22, 1e-7, True, None, '\x7f\u2028\\"/\n\x1f'],
        "a": {"c": 1, "B": 2},
    }
    assert canonical_json(value) == (
        '{"a":{"B":2,"c":1},"ü":[1,1.0,1e+22,1e-07,true,null,"\x7f\u2028\\\\\\"/\\n\\u001f"]}'
    )


@given(JSON)
def test_canonical_text_is_read_back_as_the_same_value(value: Any) -> None:
    try:
        text = canonical_json(value)
    except Invalid:
        return
    assert read_json(text.encode()) == value
    assert canonical_json(read_json(text.encode())) == text
