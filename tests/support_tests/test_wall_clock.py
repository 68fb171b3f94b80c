"""The clock that is turned under a process is off by what was said, for all its threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from support.wall_clock import WallClock

OFF_SECONDS = -86_400
# Tells the least and the most by which the clock was off, as any thread saw it.
READER = """
import json, threading, time
began = time.monotonic()
seen = []
def read():
    while time.monotonic() < began + 3:
        seen.append(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))
threads = [threading.Thread(target=read) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps([min(seen), max(seen), len(seen)]))
"""


def readings(environ: dict[str, str]) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", READER],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[float] = json.loads(done.stdout)
    return found


def test_no_thread_ever_sees_the_real_time(tmp_path: Path) -> None:
    clock = WallClock(tmp_path)
    clock.turn(OFF_SECONDS)
    real, _, _ = readings({})
    least, most, count = readings(clock.environ)
    assert count > 1_000
    assert abs(least - real - OFF_SECONDS) < 1
    assert abs(most - real - OFF_SECONDS) < 1
