"""How long to wait: finite, capped, never at once, never all together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.config.settings import Backoff
from orchd.tasks.backoff import delay_seconds

BACKOFFS = st.builds(
    Backoff,
    initial_seconds=st.floats(0, 1e6),
    factor=st.floats(1, 1e6),
    max_seconds=st.floats(0, 1e9),
    jitter=st.booleans(),
)
RANDOM = st.floats(0, 1, exclude_max=True)
STEADY = Backoff(initial_seconds=1, factor=2, max_seconds=300, jitter=False)


@given(BACKOFFS, st.integers(0, 10**9), RANDOM)
def test_a_delay_is_finite_and_within_its_bounds(
    backoff: Backoff, attempt: int, random: float
) -> None:
    assert 0 <= delay_seconds(backoff, attempt, random) <= backoff.max_seconds


@given(BACKOFFS, st.integers(1, 500))
def test_without_jitter_a_later_attempt_never_waits_less(
    backoff: Backoff, attempt: int
) -> None:
    backoff = Backoff(
        initial_seconds=backoff.initial_seconds,
        factor=backoff.factor,
        max_seconds=backoff.max_seconds,
        jitter=False,
    )
    earlier = delay_seconds(backoff, attempt, 0.0)
    assert delay_seconds(backoff, attempt + 1, 0.0) >= earlier


@given(st.integers(1, 100), RANDOM)
def test_jitter_stays_in_the_upper_half(attempt: int, random: float) -> None:
    full = delay_seconds(STEADY, attempt, random)
    jittered = delay_seconds(Backoff(max_seconds=300), attempt, random)
    assert full / 2 <= jittered <= full


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(1, 1), (2, 2), (9, 256), (10, 300), (310, 300), (10_000, 300)]
)
def test_the_delay_grows_by_its_factor_up_to_the_maximum(
    attempt: int, seconds: float
) -> None:
    assert delay_seconds(STEADY, attempt, 0.5) == seconds


def test_jitter_spreads_tasks_that_failed_together() -> None:
    backoff = Backoff(initial_seconds=10, max_seconds=300)
    delays = {delay_seconds(backoff, 1, step / 1000) for step in range(1000)}
    assert len(delays) == 1000
    assert max(delays) - min(delays) > 4.9
