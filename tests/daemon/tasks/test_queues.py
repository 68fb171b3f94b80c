"""A queue is running or paused, and each change is one event."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from orchd import queues
from orchd.tasks.events import EventMeta, encode


def _apply(
    state: queues.QueueState | None, pause: bool, at: int
) -> queues.QueueState | None:
    for event in queues.decide(state, pause=pause):
        version = 1 if state is None else state.version + 1
        meta = EventMeta(schema=1, at=at, actor="cli", reason=f"because {at}")
        state = queues.evolve(state, "q", version, event, meta)
    return state


def test_resuming_a_queue_that_was_never_paused_changes_nothing() -> None:
    assert queues.decide(None, pause=False) == ()


def test_who_paused_a_queue_when_and_why_is_kept() -> None:
    state = _apply(None, True, 7)
    assert state == queues.QueueState(
        name="q", version=1, paused=True, reason="because 7", actor="cli", changed_at=7
    )


@given(st.lists(st.booleans()))
def test_a_queue_is_what_was_asked_for_last_and_repeating_it_changes_nothing(
    wishes: list[bool],
) -> None:
    state: queues.QueueState | None = None
    for at, pause in enumerate(wishes):
        state = _apply(state, pause, at)
        assert (state is not None and state.paused) == pause
        assert queues.decide(state, pause=pause) == ()
    changes = sum(a != b for a, b in zip([False, *wishes], wishes, strict=False))
    assert (0 if state is None else state.version) == changes


def test_every_event_survives_its_stored_form() -> None:
    for kind in queues.EVENT_TYPES.values():
        assert msgspec.json.decode(encode(kind()), type=kind) == kind()
