"""How large a run is."""

from __future__ import annotations

import msgspec


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes of all loads."""

    repetitions: int
    drain_seconds: float
    """A queue is about so long that draining it takes this time."""
    drain_tasks_min: int
    drain_seconds_max: float
    latency_tasks: int
    single_seconds: float
    anchor_seconds: float
    http_clients: int
    http_seconds: float
    idle_seconds: float
    idle_finished_tasks: int
    idle_delayed_tasks: int
    in_flight_tasks: int
    in_flight_seconds: float
    replay_tasks: int

    def drain_tasks(self, per_second: int) -> int:
        """Return the length of the queue for who drains about so many a second."""
        return max(self.drain_tasks_min, round(per_second * self.drain_seconds))


SIZES = {
    "full": Sizes(
        repetitions=5,
        drain_seconds=4,
        drain_tasks_min=600,
        drain_seconds_max=60,
        latency_tasks=120,
        single_seconds=3,
        anchor_seconds=2,
        http_clients=64,
        http_seconds=5,
        idle_seconds=300,
        idle_finished_tasks=10_000,
        idle_delayed_tasks=1_000,
        in_flight_tasks=10_000,
        in_flight_seconds=30,
        replay_tasks=70_000,
    ),
    "short": Sizes(
        repetitions=3,
        drain_seconds=2,
        drain_tasks_min=300,
        drain_seconds_max=40,
        latency_tasks=60,
        single_seconds=1.5,
        anchor_seconds=1,
        http_clients=64,
        http_seconds=3,
        idle_seconds=20,
        idle_finished_tasks=10_000,
        idle_delayed_tasks=1_000,
        in_flight_tasks=10_000,
        in_flight_seconds=20,
        replay_tasks=20_000,
    ),
    "tiny": Sizes(
        repetitions=1,
        drain_seconds=0.02,
        drain_tasks_min=100,
        drain_seconds_max=30,
        latency_tasks=10,
        single_seconds=0.3,
        anchor_seconds=0.3,
        http_clients=8,
        http_seconds=0.5,
        idle_seconds=1,
        idle_finished_tasks=50,
        idle_delayed_tasks=5,
        in_flight_tasks=200,
        in_flight_seconds=2,
        replay_tasks=500,
    ),
}
