"""A storm of `kill -9` over a bulk job, and what has to be true afterwards.

`python -m chaos.kill_storm` does not exist on purpose: `make chaos` runs it at full size
through pytest, the default tests at a small one.
"""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from support.daemons import Installation, kill
from support.processes import ServerProcess

TOML = """
[worker]
concurrency = 16
lease = "4s"
[executors.cat]
type = "command"
argv = ["cat"]
"""
RUN_ENDS = frozenset(
    f"task.{end}" for end in ("completed", "retried", "failed", "released", "cancelled")
)


def write_tasks(path: Path, count: int) -> None:
    """Write a file of tasks, half echo and half a registered command."""
    with path.open("w") as file:
        for number in range(count):
            executor = "echo" if number % 2 else "cat"
            task = {"id": f"t{number:06d}", "description": f"text {number}"}
            file.write(json.dumps(task | {"executor": executor}) + "\n")


@contextmanager
def looking(database: str) -> Iterator[Any]:
    """Lend a function that queries the state beside the daemon."""
    if database.startswith("sqlite"):
        path = database.removeprefix("sqlite:///")
        connection: Any = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
    else:
        connection = psycopg.connect(database, autocommit=True)
    try:
        yield lambda query: connection.execute(query).fetchall()
    finally:
        connection.close()


COUNTS = "SELECT status, count(*) FROM tasks GROUP BY status"


def storm(home: Path, database: str, *, tasks: int, kills: int, seed: int) -> None:
    """Submit, kill the daemon again and again in the middle, and check everything."""
    installation = Installation(home, database, TOML)
    file = home / "tasks.jsonl"
    write_tasks(file, tasks)
    installation.succeed("submit", "--file", str(file), timeout_seconds=300)
    chance = random.Random(seed)
    for number in range(kills):
        kill_in_the_middle(installation, number, kills, tasks, chance)
    last = installation.serve("--until-idle")
    assert last.process.wait(timeout=600) == 0, last.log
    check(installation, tasks)


def kill_in_the_middle(
    installation: Installation, number: int, kills: int, tasks: int, chance: random.Random
) -> None:
    """Start the daemon, let it do its share, and kill it with runs in flight."""
    daemon = installation.serve()
    assert daemon.wait_until_ready(), daemon.log
    left_before = tasks - tasks * (number + 1) // (kills + 2)
    left = wait_for_progress(installation.database, daemon, left_before)
    time.sleep(chance.random() * 0.05)
    kill(daemon.process)
    counts = counts_of(installation.database)
    assert counts["in_progress"] > 0, f"kill {number} found nothing in flight: {counts}"
    enough = min(500, tasks // 20)
    assert tasks - counts["completed"] >= enough, (left, counts)


def wait_for_progress(database: str, daemon: ServerProcess, left_before: int) -> int:
    """Wait until fewer than `left_before` tasks are left and some are running."""
    deadline = time.monotonic() + 300
    with looking(database) as query:
        while time.monotonic() < deadline:
            assert daemon.process.poll() is None, daemon.log
            counts = Counter(dict(query(COUNTS)))
            left = counts["pending"] + counts["in_progress"]
            if left < left_before and counts["in_progress"]:
                return left
            time.sleep(0.01)
    raise AssertionError(f"no progress: {counts}, {daemon.log}")


def counts_of(database: str) -> Counter[str]:
    """Return status -> number of tasks."""
    with looking(database) as query:
        return Counter(dict(query(COUNTS)))


def check(installation: Installation, tasks: int) -> None:
    """Check that nothing was lost, and no recorded result was executed again."""
    assert counts_of(installation.database) == Counter(completed=tasks)
    installation.succeed("replay", "--check", timeout_seconds=300)
    installation.succeed("log", "verify", timeout_seconds=300)
    histories: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in installation.events():
        if event["stream"].startswith("task-"):
            histories[event["stream"]].append(event)
    assert len(histories) == tasks
    for stream, history in histories.items():
        check_history(stream, history)


def check_history(stream: str, history: list[dict[str, Any]]) -> None:
    """Check one task: every run ends once, and nothing is executed after its result."""
    types = [event["type"] for event in history]
    assert types[0] == "task.submitted", (stream, types)
    assert types.count("task.submitted") == 1
    assert types.count("task.completed") == 1
    assert types[-1] == "task.completed", (stream, types)
    starts = [e for e in history if e["type"] == "task.started"]
    ends = [e for e in history if e["type"] in RUN_ENDS]
    assert [e["data"]["run"] for e in starts] == [e["data"]["run"] for e in ends], types
    if "task.executed" in types:
        after = types[types.index("task.executed") :]
        assert not any(
            e["type"] == "task.started" and e["data"]["phase"] == "execute"
            for e in history[types.index("task.executed") :]
        ), after
