"""What keeps a state in order: mending, noting checkpoints, erasing."""

from __future__ import annotations

from starlette.types import ASGIApp

from orchd_ops.http.answers import JSONAnswer
from orchd_ops.http.calls import Call


async def mend(call: Call) -> ASGIApp:
    """Make rows, or counters, what the log says."""
    call.check_query()
    return JSONAnswer(await call.operations.upkeep.mend(await call.body()))


async def note_checkpoint(call: Call) -> ASGIApp:
    """Record that a checkpoint was made."""
    call.check_query()
    body, now = await call.body(), await call.operations.now()
    noted = await call.operations.upkeep.note_checkpoint(body, call.caller(), now)
    return JSONAnswer(noted, 201)


async def erase_task(call: Call) -> ASGIApp:
    """Erase the bodies of a finished task; the log still says what happened to it."""
    call.check_query()
    caller, now = call.caller(await call.reason()), await call.operations.now()
    erased = await call.operations.upkeep.erase(call.path["id"], caller, now)
    return JSONAnswer(erased)
