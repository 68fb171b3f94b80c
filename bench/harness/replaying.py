"""A full replay of a large log, against reading and parsing the same rows.

Both are done in a process of its own, as `orchd replay` is: a process with threads cannot
be copied, so that a replay in it would have one core.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from harness.paths import BENCH
from harness.state import connect, settle
from orchd.maintenance.difference import Difference
from orchd.maintenance.replay import Options, check, mend
from orchd.system import RealSystem
from support.large_states import make_large_state

IN_STREAMS = "SELECT stream, version, type, data, meta FROM events ORDER BY stream, version"
Values = dict[str, float]


class NotEmpty(Exception):
    """A replay found a difference where there must be none."""


def replay(url: str, tasks: int, runs: int, jobs: int | None = None) -> list[Values]:
    """Fill an empty database, then read, check and replay it in turns."""
    make_large_state(url, tasks)
    return measured(url, runs, jobs)


def once(url: str) -> Values:
    """Read and replay a state that is there, once."""
    [values] = measured(url, 1)
    return {
        name: values[name]
        for name in ("parse_events_per_second", "replay_events_per_second")
    }


def measured(url: str, runs: int, jobs: int | None = None) -> list[Values]:
    """Read, check and replay a state in turns, in a process of its own.

    Raises:
        NotEmpty: there was a difference, or it could not be replayed.
    """
    settle(url)
    command = [sys.executable, "-m", "harness.replaying", url, str(runs), str(jobs or 0)]
    places = os.pathsep.join([str(BENCH), str(BENCH.parent / "tests")])
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": places},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise NotEmpty(f"the replay of {url} failed: {done.stderr.strip()}")
    found: list[Values] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure, and print what was measured as JSON."""
    url, runs, jobs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    print(json.dumps(list(_measure(url, runs, jobs or None))))


def _measure(url: str, runs: int, jobs: int | None) -> Iterator[Values]:
    events = parse_all(url)
    for _ in range(runs):
        parsing = _seconds(lambda: parse_all(url))
        checking = _seconds(lambda: _walk(check, url, jobs))
        replaying = _seconds(lambda: _walk(mend, url, jobs))
        yield {
            "parse_events_per_second": events / parsing,
            "check_events_per_second": events / checking,
            "replay_events_per_second": events / replaying,
        }


def parse_all(url: str) -> int:
    """Read every event with the driver and parse its data; return how many there are."""
    connection = connect(url)
    count = 0
    for row in connection.execute(IN_STREAMS):
        json.loads(row[3])
        count += 1
    connection.close()
    return count


def _walk(how: Callable[..., Iterator[Difference]], url: str, jobs: int | None) -> None:
    differences = list(how(url, system=RealSystem(), options=Options(jobs=jobs)))
    if differences:
        raise NotEmpty(f"the replay found {differences[0]}")


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
