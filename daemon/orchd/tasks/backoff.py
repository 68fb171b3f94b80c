"""How long to wait before another attempt: exponential, capped, jittered."""

from __future__ import annotations

from orchd.config.settings import Backoff


def delay_seconds(backoff: Backoff, attempt: int, random: float) -> float:
    """Return the seconds to wait after the `attempt`-th attempt (1, 2, …) has failed.

    `random` is a number in [0, 1). With jitter it spreads the delay evenly over the upper
    half of the span, so that tasks that failed together do not come back together and
    none comes back at once. The delay is finite, at least 0 and at most the maximum,
    however large `attempt` is.
    """
    span = min(_grown(backoff, attempt), max(backoff.max_seconds, 0.0))
    return span / 2 + span / 2 * random if backoff.jitter else span


def _grown(backoff: Backoff, attempt: int) -> float:
    if backoff.initial_seconds <= 0:
        return 0.0
    try:
        return backoff.initial_seconds * backoff.factor ** (max(attempt, 1) - 1)
    except OverflowError:
        return float("inf")
