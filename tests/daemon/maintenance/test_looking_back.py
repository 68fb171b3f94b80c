"""The tasks as they were: at every position, and at any time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from orchd.maintenance.errors import NoSuchTask
from orchd.maintenance.exporting import export
from orchd.maintenance.looking_back import states_at, views_at
from orchd.system import RealSystem
from orchd.tasks.events import decode_event, decode_meta
from orchd.tasks.machine import Stamped, evolve
from orchd.tasks.state import TaskState
from support.tampering import query

SYSTEM = RealSystem()
EVENTS = (
    "SELECT position, stream, version, type, data, meta, recorded_at"
    " FROM events ORDER BY position"
)


def prefixes(url: str) -> Iterator[tuple[int, Any, dict[str, TaskState]]]:
    """Yield position, time and all tasks after every event of a log."""
    states: dict[str, TaskState] = {}
    for position, stream, version, kind, data, meta, recorded_at in query(url, EVENTS):
        if stream.startswith("task-"):
            task_id = stream.removeprefix("task-")
            stamped = Stamped(task_id, version, decode_event(kind, data), decode_meta(meta))
            states[task_id] = evolve(states.get(task_id), stamped)
        yield position, recorded_at, states


def looked_at(url: str, **when: Any) -> dict[str, TaskState]:
    return {state.id: state for state in states_at(url, system=SYSTEM, **when)}


def test_every_position_shows_the_fold_of_everything_up_to_it(state_url: str) -> None:
    assert looked_at(state_url, position=0) == {}
    for position, _, states in prefixes(state_url):
        assert looked_at(state_url, position=position) == states, position
    assert looked_at(state_url, position=10**9) == states
    # In the order in which they were submitted.
    assert list(looked_at(state_url)) == list(states)


def test_every_instant_shows_what_was_recorded_by_then(state_url: str) -> None:
    recorded = [event.recorded_at for event in _recorded(state_url)]
    by_instant = {}
    for (_, _, states), instant in zip(prefixes(state_url), recorded, strict=True):
        by_instant[instant] = dict(states)
    instants = sorted(by_instant)
    assert looked_at(state_url, instant=instants[0] - 1) == {}
    for instant, later in zip(instants, [*instants[1:], instants[-1] + 10], strict=True):
        assert looked_at(state_url, instant=instant) == by_instant[instant]
        between = (instant + later) // 2
        assert looked_at(state_url, instant=between) == by_instant[instant]
    assert looked_at(state_url, instant=SYSTEM.now() + 10**12) == by_instant[instants[-1]]


def _recorded(url: str) -> list[Any]:
    from orchd.maintenance.opening import reading

    with reading(url, system=SYSTEM) as reader:
        return reader.store.read_all(limit=10_000)


def test_one_task_is_shown_alone_and_one_that_was_not_there_is_named(
    state_url: str,
) -> None:
    [(first,)] = query(
        state_url, "SELECT min(position) FROM events WHERE stream = 'task-far'"
    )
    [far] = states_at(state_url, system=SYSTEM, position=first, task_id="far")
    assert (far.id, far.version) == ("far", 1)
    with pytest.raises(NoSuchTask, match=f"far at position {first - 1}"):
        list(states_at(state_url, system=SYSTEM, position=first - 1, task_id="far"))
    with pytest.raises(NoSuchTask):
        list(states_at(state_url, system=SYSTEM, task_id="nobody"))


def test_what_is_shown_has_the_form_and_the_bodies_of_a_task(state_url: str) -> None:
    shown = {view["id"]: view for view in views_at(state_url, system=SYSTEM)}
    assert shown["large"]["result"].startswith("large large")
    assert len(shown["large"]["description"]) > 50_000
    assert shown["plain"]["payload"] == {"a": 1}
    assert shown["plain"]["created_at"].endswith("Z")
    assert shown["far"]["waiting"]["reason"] == "time"
    # The queue had been paused, and was so before this task was submitted.
    assert shown["ready"]["waiting"]["reason"] == "queue paused"
    [(paused,)] = query(
        state_url, "SELECT position FROM events WHERE type = 'queue.paused'"
    )
    before = {
        view["id"]: view["waiting"]
        for view in views_at(state_url, system=SYSTEM, position=paused - 1)
    }
    assert before["far"]["reason"] == "time"
    assert "ready" not in before


def test_looking_back_reads_as_many_events_as_an_export_has(state_url: str) -> None:
    told: list[tuple[str, int, int | None]] = []
    list(states_at(state_url, system=SYSTEM, progress=lambda *parts: told.append(parts)))
    events = len(list(export(state_url, system=SYSTEM)))
    assert told[-1] == ("events", events, events)
