"""States with a history: tasks that completed, failed, wait and were released."""

from __future__ import annotations

from typing import Any

import msgspec

from orchd.breakers import Open
from orchd.executors.port import Deferred, Failure, Final, RunContext, Success
from orchd.ledger.port import ActOnBreaker, ActOnTask, SetQueue
from orchd.tasks.commands import Cancel, Requeue
from orchd.verifiers.port import Rejected
from support.engines import ORIGIN, Harness, ScriptedExecutor, ScriptedVerifier

LARGE = "large " * 10_000
FAR = 10**14


async def _work(context: RunContext) -> Any:
    plan = context.metadata.get("plan", [])
    step = plan[context.run - 1] if context.run <= len(plan) else "ok"
    if step == "fail":
        return Failure(error="no")
    if step == "final":
        return Final(error="never")
    if step == "later":
        return Deferred(until=0, reason="not now")
    return Success(output=LARGE if step == "large" else "done", confidence=0.1)


async def make_history(url: str) -> None:
    """Run an engine on an empty database until every kind of row is there."""
    judge = ScriptedVerifier([Rejected(feedback="again", issues=("short",))])
    harness = await Harness.open(url, [ScriptedExecutor(_work)], [judge])
    engine = harness.engine

    async def submit(task_id: str, *plan: str, **more: Any) -> None:
        metadata = msgspec.Raw(msgspec.json.encode({"plan": plan}))
        await harness.submit(task_id, metadata=metadata, **more)

    await submit("plain", payload=msgspec.Raw(b'{"a":1}'), idempotency_key="key")
    await submit("retried", "fail", verifiers=("judge",))
    await submit("dead", "final", priority=3)
    await submit("requeued", "final")
    await submit("deferred", "later", queue="other")
    await submit("large", "large", description=LARGE)
    await harness.settle()
    await submit("far", run_at=FAR * 100, execute_timeout_seconds=0.1)
    await submit("cancelled", run_at=FAR * 100)
    now = engine.clock.now()
    pause = SetQueue(name="default", pause=True, now=now, origin=ORIGIN)
    opened = Open(now=now, failures=5, error="down", cooldown=FAR)
    await engine.requests(
        [
            ActOnTask(task_id="cancelled", command=Cancel(now=now), origin=ORIGIN),
            pause,
            ActOnBreaker(name="other", command=opened, origin=ORIGIN),
        ]
    )
    await submit("ready")
    requeue = ActOnTask(task_id="requeued", command=Requeue(now=now), origin=ORIGIN)
    await engine.request(requeue)
    await harness.close()
