"""What is stored of an event can be read again."""

from __future__ import annotations

import msgspec
import pytest

from orchd.maintenance.folding import TASKS, StoredEvent, UnreadableStream, expect
from orchd.tasks.events import TaskSubmitted, decode_event, encode

META = '{"at":5,"causation":"c","schema":1}'


@pytest.mark.parametrize("text", ["null", "3", '"x"', "[1]", '{"a":{"b":1}}'])
def test_any_json_value_survives_in_an_event(text: str) -> None:
    submitted = TaskSubmitted(
        description="d",
        executor="e",
        max_attempts=1,
        payload=msgspec.Raw(text.encode()),
        metadata=msgspec.Raw(b'{"k":"v"}'),
    )
    read = decode_event("task.submitted", encode(submitted))
    assert isinstance(read, TaskSubmitted)
    assert read.payload is not None
    assert bytes(read.payload).decode() == text
    assert encode(read) == encode(submitted)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("task.submitted", "nonsense"),
        ("task.submitted", "{}"),
        ("task.invented", "{}"),
        ("task.completed", '{"run":1,"token":1}'),
    ],
)
def test_a_stream_that_cannot_be_folded_is_named(kind: str, data: str) -> None:
    event = StoredEvent("task-a", 1, kind, data, META)
    with pytest.raises(UnreadableStream, match="task-a"):
        expect(TASKS, "a", [event])
