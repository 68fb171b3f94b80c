"""The breaker: closed, open, half-open, and back."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from orchd import breakers
from orchd.breakers import BreakerState, Close, Open, Position, Probe
from orchd.tasks.events import EventMeta, encode


class Breaker:
    """A breaker whose events go through their stored form."""

    def __init__(self) -> None:
        self.state: BreakerState | None = None
        self.history: list[tuple[int, breakers.BreakerEvent]] = []

    @property
    def position(self) -> Position:
        return Position.CLOSED if self.state is None else self.state.position

    def do(self, command: breakers.BreakerCommand) -> int:
        """Carry out a command; return how many events it caused."""
        events = breakers.decide(self.state, command)
        for event in events:
            stored = msgspec.json.decode(encode(event), type=type(event))
            assert stored == event
            self.history.append((command.now, stored))
            self.state = _evolve(self.state, len(self.history), stored, command.now)
        return len(events)

    def refolded(self) -> BreakerState | None:
        state: BreakerState | None = None
        for version, (at, event) in enumerate(self.history, start=1):
            state = _evolve(state, version, event, at)
        return state


def _evolve(
    state: BreakerState | None, version: int, event: breakers.BreakerEvent, at: int
) -> BreakerState:
    return breakers.evolve(state, "b", version, event, EventMeta(schema=1, at=at))


def _open(now: int) -> Open:
    return Open(now=now, failures=5, error="503", cooldown=60)


def _opened() -> Breaker:
    breaker = Breaker()
    breaker.do(_open(0))
    return breaker


def test_an_open_breaker_does_not_open_again_nor_later() -> None:
    breaker = _opened()
    assert breaker.do(_open(30)) == 0
    assert breaker.state is not None
    assert (breaker.state.failures, breaker.state.until) == (5, 60)


def test_nobody_probes_before_the_cooldown_is_over() -> None:
    breaker = _opened()
    assert breaker.do(Probe(now=59, worker="a", patience=10)) == 0
    assert breaker.do(Probe(now=60, worker="a", patience=10)) == 1
    assert breaker.position is Position.HALF_OPEN


def test_one_worker_probes_until_its_patience_is_over() -> None:
    breaker = _opened()
    breaker.do(Probe(now=60, worker="a", patience=10))
    assert breaker.do(Probe(now=69, worker="b", patience=10)) == 0
    assert breaker.do(Probe(now=70, worker="b", patience=10)) == 1
    assert breaker.state is not None
    assert (breaker.state.worker, breaker.state.until) == ("b", 80)


def test_who_may_probe_already_does_not_take_over_from_itself() -> None:
    breaker = _opened()
    breaker.do(Probe(now=60, worker="a", patience=10))
    assert breaker.do(Probe(now=1000, worker="a", patience=10)) == 0


def test_a_probe_that_fails_opens_the_breaker_for_another_cooldown() -> None:
    breaker = _opened()
    breaker.do(Probe(now=60, worker="a", patience=10))
    assert breaker.do(_open(65)) == 1
    assert breaker.state is not None
    assert (breaker.position, breaker.state.until, breaker.state.worker) == (
        Position.OPEN,
        125,
        None,
    )


def test_a_probe_that_succeeds_closes_the_breaker_and_clears_it() -> None:
    breaker = _opened()
    breaker.do(Probe(now=60, worker="a", patience=10))
    breaker.do(Close(now=61))
    assert breaker.state == BreakerState(
        name="b",
        version=3,
        position=Position.CLOSED,
        failures=0,
        error="",
        until=None,
        worker=None,
        changed_at=61,
    )


def test_an_operator_closes_an_open_breaker_and_closing_twice_is_closing_once() -> None:
    breaker = _opened()
    assert (breaker.do(Close(now=1)), breaker.do(Close(now=2))) == (1, 0)


def test_a_closed_breaker_is_never_probed() -> None:
    breaker = Breaker()
    assert breaker.do(Probe(now=10**9, worker="a", patience=1)) == 0
    breaker.do(_open(0))
    breaker.do(Close(now=1))
    assert breaker.do(Probe(now=10**9, worker="a", patience=1)) == 0


STEPS = st.lists(
    st.tuples(
        st.integers(0, 100),
        st.sampled_from(("open", "close", "probe")),
        st.sampled_from(("a", "b")),
    ),
    max_size=30,
)


@given(STEPS)
def test_random_commands_never_meet_an_illegal_state(
    steps: list[tuple[int, str, str]],
) -> None:
    breaker, now = Breaker(), 0
    for passed, what, worker in steps:
        now += passed
        commands: dict[str, breakers.BreakerCommand] = {
            "open": _open(now),
            "close": Close(now=now),
            "probe": Probe(now=now, worker=worker, patience=20),
        }
        before = breaker.position
        breaker.do(commands[what])
        assert breaker.state == breaker.refolded()
        assert not (before is Position.CLOSED and breaker.position is Position.HALF_OPEN)
        _check(breaker.state)


def _check(state: BreakerState | None) -> None:
    if state is None:
        return
    closed = state.position is Position.CLOSED
    assert closed == (state.until is None) == (state.failures == 0)
    assert (state.worker is not None) == (state.position is Position.HALF_OPEN)
