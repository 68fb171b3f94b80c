"""What one seed decides: the fleet, its settings, its weather, its load and its faults.

Each seed draws a few kinds of trouble and does without the others ("swarm testing"): what
every run has a little of is seldom there in strength.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

EXECUTORS = ("work", "remote", "lock", "rare")
"""`remote` depends on something, `lock` is exclusive, `rare` is not everywhere."""
VERIFIERS = ("cheap", "quick", "judge", "second")
"""`cheap` and `quick` are inline."""
QUEUES = ("default", "narrow", "wide", "slow")


class Weather(msgspec.Struct, frozen=True, kw_only=True):
    """How calls to the database fare; rates are shares of calls."""

    latency_seconds: float = 0.002
    slow_rate: float = 0.0
    slow_seconds: float = 3.0
    read_error_rate: float = 0.0
    write_error_rate: float = 0.0
    stray_rate: float = 0.0
    """How many late writes are applied even after their repetition was answered."""
    hang_seconds: float = 8.0
    news_lost_rate: float = 0.0
    news_delay_seconds: float = 0.01
    news_fallback_seconds: float | None = 1.0

    @property
    def is_faithful(self) -> bool:
        """Whether every call is answered soon, as long as the database is there."""
        return not (self.slow_rate or self.read_error_rate or self.write_error_rate)


class Fault(StrEnum):
    """What a seed may do to the world at a moment."""

    CRASH = "crash"
    CRASH_AT_STEP = "crash at step"
    CRASH_AT_WRITE = "crash at write"
    STALL = "stall"
    STALL_AT_STEP = "stall at step"
    HICCUP = "hiccup"
    DRAIN = "drain"
    UNTIL_IDLE = "until idle"
    REBOOT = "reboot"
    SLEEP = "sleep"
    WALL_JUMP = "wall jump"
    DATABASE_JUMP = "database jump"
    OUTAGE = "outage"
    READ_ONLY = "read only"
    PARTITION = "partition"
    DEPENDENCY_DOWN = "dependency down"
    RELOAD = "reload"
    UNFORESEEN = "unforeseen"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One seed, spelled out."""

    seed: int
    daemons: int
    machines: int
    sole_writer: bool
    lease_seconds: float
    concurrency: Sequence[int]
    limits: Mapping[str, int]
    max_crashes: int
    max_deferrals: int
    max_verify_errors: int
    backoff_seconds: float
    breaker_failures: int
    cooldown_seconds: float
    drain_seconds: float
    chaos_seconds: float
    tasks: int
    act_seconds: float
    """How long an execution takes, in the middle."""
    behaviours: Mapping[str, float]
    """Kind of behaviour of executors and verifiers -> weight."""
    weather: Weather
    faults: Sequence[tuple[float, Fault]]
    operations: int
    """How many cancellations, requeues, pauses and the like."""


_FAULT_WEIGHTS = {
    Fault.CRASH: 2.0,
    Fault.CRASH_AT_STEP: 4.0,
    Fault.CRASH_AT_WRITE: 4.0,
    Fault.STALL: 2.0,
    Fault.STALL_AT_STEP: 2.0,
    Fault.HICCUP: 2.0,
    Fault.DRAIN: 2.0,
    Fault.UNTIL_IDLE: 1.0,
    Fault.REBOOT: 0.5,
    Fault.SLEEP: 1.0,
    Fault.WALL_JUMP: 1.0,
    Fault.DATABASE_JUMP: 1.0,
    Fault.OUTAGE: 1.5,
    Fault.READ_ONLY: 1.0,
    Fault.PARTITION: 1.5,
    Fault.DEPENDENCY_DOWN: 1.5,
    Fault.RELOAD: 1.5,
    Fault.UNFORESEEN: 1.0,
}
_CRASHES = (Fault.CRASH, Fault.CRASH_AT_STEP, Fault.CRASH_AT_WRITE, Fault.REBOOT)
_BEHAVIOURS = {
    "fail": 1.5,
    "final": 0.3,
    "defer": 0.6,
    "dependency": 1.0,
    "raise": 0.8,
    "rubbish": 0.3,
    "hang": 0.6,
    "stubborn": 0.5,
    "swallow": 0.4,
    "long": 0.6,
    "block": 0.3,
    "unstorable": 0.4,
    "quit": 0.1,
    "reload": 0.6,
    "reject": 1.0,
    "broken": 1.0,
}


def plan_for(seed: int, *, targeted: bool = False) -> Plan:
    """Return what a seed decides.

    With `targeted` there is a little of everything, so that whoever waits for one place of
    the engine to kill a process there is likely to see it.
    """
    chance = random.Random(f"{seed}/plan")
    daemons = chance.choices((1, 2, 3, 4), (0.32, 0.40, 0.20, 0.08))[0]
    lease = chance.choice((1.0, 2.0, 3.0, 5.0))
    chaos = chance.uniform(5.0, 12.0)
    return Plan(
        seed=seed,
        daemons=daemons,
        machines=chance.randint(1, daemons),
        sole_writer=daemons == 1 and chance.random() < 0.5,
        lease_seconds=lease,
        concurrency=[chance.randint(1, 5) for _ in range(daemons)],
        limits=_limits(chance),
        max_crashes=chance.choice((0, 1, 2, 3)),
        max_deferrals=chance.randint(0, 4),
        max_verify_errors=chance.randint(1, 4),
        backoff_seconds=chance.choice((0.0, 0.05, 0.5)),
        breaker_failures=chance.randint(1, 4),
        cooldown_seconds=chance.choice((0.2, 1.0, 4.0)),
        drain_seconds=chance.choice((0.0, 0.3, 2.0)),
        chaos_seconds=chaos,
        tasks=chance.randint(36, 64),
        act_seconds=chance.choice((0.005, 0.05, 0.3)),
        behaviours=_some(chance, _BEHAVIOURS, 1.0 if targeted else None),
        weather=_weather(chance),
        faults=_faults(chance, chaos, targeted=targeted),
        operations=chance.randint(12, 24) if targeted else chance.randint(0, 16),
    )


def _limits(chance: random.Random) -> dict[str, int]:
    if chance.random() < 0.4:
        return {}
    return {"narrow": chance.randint(1, 2), "wide": chance.randint(2, 5)}


def _some(
    chance: random.Random, weights: Mapping[str, float], share: float | None
) -> dict[str, float]:
    if share is None:
        share = chance.choice((0.15, 0.4, 0.8))
    drawn = {k: w * chance.uniform(0.2, 1.5) for k, w in weights.items()}
    return {k: w for k, w in drawn.items() if chance.random() < share}


def _weather(chance: random.Random) -> Weather:
    stormy = chance.random() < 0.5
    return Weather(
        latency_seconds=chance.choice((0.0, 0.001, 0.01, 0.05)),
        slow_rate=chance.choice((0.0, 0.0, 0.01)),
        slow_seconds=chance.choice((0.5, 3.0, 12.0)),
        read_error_rate=0.03 if stormy and chance.random() < 0.5 else 0.0,
        write_error_rate=chance.choice((0.03, 0.15)) if stormy else 0.0,
        stray_rate=chance.choice((0.0, 0.0, 0.0, 0.5)),
        hang_seconds=chance.choice((2.0, 8.0, 20.0)),
        news_lost_rate=chance.choice((0.0, 0.3, 1.0)),
        news_delay_seconds=chance.choice((0.001, 0.02, 0.5)),
        news_fallback_seconds=chance.choice((1.0, None, None)),
    )


def _faults(
    chance: random.Random, chaos: float, *, targeted: bool
) -> list[tuple[float, Fault]]:
    if targeted:
        kinds = [kind for kind in Fault if kind not in _CRASHES]
    else:
        kinds = [kind for kind in Fault if chance.random() < 0.4]
    if not kinds:
        return []
    weights = [_FAULT_WEIGHTS[kind] for kind in kinds]
    count = chance.randint(10, 16) if targeted else chance.randint(2, 10)
    drawn = chance.choices(kinds, weights, k=count)
    return sorted((chance.uniform(0.0, chaos), kind) for kind in drawn)
