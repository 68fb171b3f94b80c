"""What the two bounds share: the texts that orchd's log holds, written by hand.

A bound is no peer. It is the least code that does to orchd's own schema what orchd does
when all goes well: every row, event, commit, hash and counter is there, and a completion
is conditional on its fencing token. It leaves out everything that is not needed then: the
state machine, verification, retries, timers, queues, limits, breakers, leases, the
recovery of a lost answer, HTTP, metrics and logs.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from peers.protocol import BODIES, Payload

WORKER = "00000000-0000-7000-8000-000000000001"
BATCH_TASKS = int(os.environ.get("BENCH_BOUND_BATCH", "500"))
"""Tasks that a commit completes, and tasks that it starts: half of what is in flight when
orchd runs a thousand at once."""
MAX_ATTEMPTS = 3

_counter = itertools.count()


class Submission(NamedTuple):
    """What a task is submitted with."""

    id: str
    description: str
    payload: str
    body_hash: str
    data: str


class Completion(NamedTuple):
    """What a task ends with."""

    id: str
    token: int
    result: str
    data: str


def canonical(value: object) -> str:
    """Return canonical JSON, as the log wants it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def micros() -> int:
    """Return the time in microseconds."""
    return time.time_ns() // 1000


def new_id() -> str:
    """Return an id that sorts by time and has the length of a UUID."""
    moment, number = f"{time.time_ns() // 1_000_000:012x}", f"{next(_counter):012x}"
    return f"{moment[:8]}-{moment[8:]}-7{os.getpid() & 0xFFF:03x}-8000-{number}"


def meta(actor: str, at: int, command: str) -> str:
    """Return what is noted beside every event of a commit."""
    noted: dict[str, Any] = {"actor": actor, "at": at, "causation": command, "schema": 1}
    if actor == "worker":
        noted["worker"] = WORKER
    return canonical(noted)


def submission(kind: str, given: Payload) -> Submission:
    """Return a task as it is submitted."""
    task_id, body = new_id(), canonical(given)
    body_hash = hashlib.sha256(f"{task_id}{kind}{body}".encode()).hexdigest()
    data = (
        f'{{"body_hash":"{body_hash}","description":"{kind}","executor":"{kind}",'
        f'"max_attempts":{MAX_ATTEMPTS},"payload":{body}}}'
    )
    return Submission(task_id, kind, body, body_hash, data)


def started_data(token: int) -> str:
    """Return the data of the event that starts a task for the first time."""
    return f'{{"attempt":1,"phase":"execute","run":1,"token":{token},"worker":"{WORKER}"}}'


def completion(task_id: str, token: int, description: str, body: str) -> Completion:
    """Execute a task, and return how it ended."""
    given: Mapping[str, Any] = json.loads(body)
    result = json.dumps(BODIES[description](given))
    data = f'{{"result":{json.dumps(result)},"run":1,"token":{token}}}'
    return Completion(task_id, token, result, data)


def completions(claimed: Sequence[tuple[str, int, str, str]]) -> list[Completion]:
    """Execute what was claimed."""
    return [completion(*task) for task in claimed]
