"""A full replay of a large log, against reading and parsing the same rows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

from harness.state import connect
from orchd.maintenance.difference import Difference
from orchd.maintenance.replay import Options, check, mend
from orchd.system import RealSystem
from support.large_states import make_large_state

IN_STREAMS = "SELECT stream, version, type, data, meta FROM events ORDER BY stream, version"


class NotEmpty(Exception):
    """A replay found a difference where there must be none."""


def replay(url: str, tasks: int, runs: int) -> list[dict[str, float]]:
    """Fill an empty database, then read, check and replay it in turns."""
    make_large_state(url, tasks)
    _settle(url)
    events = parse_all(url)
    told = []
    for _ in range(runs):
        parsing = _seconds(lambda: parse_all(url))
        checking = _seconds(lambda: _walk(check, url))
        replaying = _seconds(lambda: _walk(mend, url))
        told.append(
            {
                "parse_events_per_second": events / parsing,
                "check_events_per_second": events / checking,
                "replay_events_per_second": events / replaying,
            }
        )
    return told


def once(url: str) -> dict[str, float]:
    """Read and replay a state that is there, once."""
    _settle(url)
    events = parse_all(url)
    return {
        "parse_events_per_second": events / _seconds(lambda: parse_all(url)),
        "replay_events_per_second": events / _seconds(lambda: _walk(mend, url)),
    }


def _settle(url: str) -> None:
    """Let PostgreSQL do now what it would do by itself in the minute after."""
    if url.startswith("postgresql"):
        connection = connect(url)
        connection.execute("VACUUM ANALYZE")
        connection.close()


def parse_all(url: str) -> int:
    """Read every event with the driver and parse its data; return how many there are."""
    connection = connect(url)
    count = 0
    for row in connection.execute(IN_STREAMS):
        json.loads(row[3])
        count += 1
    connection.close()
    return count


def _walk(how: Callable[..., Iterator[Difference]], url: str) -> None:
    differences = list(how(url, system=RealSystem(), options=Options()))
    if differences:
        raise NotEmpty(f"the replay found {differences[0]}")


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
