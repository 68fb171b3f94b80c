"""What the routes for dead letters, queues, breakers, daemons and the log do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp

from orchd.operations.dead_letters import dead_letter_filter
from orchd.operations.views import event_view
from orchd_ops.http.answers import JSONAnswer
from orchd_ops.http.calls import NUMBER_MAX, Call
from orchd_ops.http.problems import problem


async def list_dead_letters(call: Call) -> ASGIApp:
    """List dead letters, newest first."""
    call.check_query("queue", "executor", "error_class", "older_than", "limit", "cursor")
    wanted = dead_letter_filter(
        queue=call.text("queue"),
        executor=call.text("executor"),
        error_class=call.text("error_class"),
        older_than=call.text("older_than"),
        now=await call.operations.now(),
    )
    listing = await call.operations.tasks(
        wanted, limit=call.limit(), cursor=call.text("cursor")
    )
    return JSONAnswer(listing)


async def requeue_dead_letters(call: Call) -> ASGIApp:
    """Give dead letters a new round."""
    return await _act("requeue", call)


async def discard_dead_letters(call: Call) -> ASGIApp:
    """Put dead letters away for good."""
    return await _act("discard", call)


async def _act(verb: str, call: Call) -> ASGIApp:
    call.check_query()
    body = await call.body()
    page = await call.operations.act_on_dead_letters(verb, body, call.caller())
    return JSONAnswer(page)


async def list_queues(call: Call) -> ASGIApp:
    """List the queues with their depths."""
    call.check_query()
    return _listing(await call.operations.queues())


async def pause_queue(call: Call) -> ASGIApp:
    """Let nobody claim from a queue."""
    return await _set_queue(call, pause=True)


async def resume_queue(call: Call) -> ASGIApp:
    """Let claims from a queue go on."""
    return await _set_queue(call, pause=False)


async def _set_queue(call: Call, *, pause: bool) -> ASGIApp:
    call.check_query()
    caller = call.caller(await call.reason())
    return JSONAnswer(await call.operations.set_queue(call.path["name"], pause, caller))


async def list_breakers(call: Call) -> ASGIApp:
    """List the breakers that ever opened."""
    call.check_query()
    return _listing(await call.operations.breakers())


async def reset_breaker(call: Call) -> ASGIApp:
    """Close a breaker."""
    call.check_query()
    caller = call.caller(await call.reason())
    return JSONAnswer(await call.operations.reset_breaker(call.path["name"], caller))


async def list_workers(call: Call) -> ASGIApp:
    """List the daemons that hold, or held, a lease."""
    call.check_query()
    return _listing(await call.operations.workers())


async def read_log(call: Call) -> ASGIApp:
    """Read the log from a position on; with `wait`, wait for news at its end."""
    call.check_query("after", "cursor", "last", "limit", "wait")
    head = await call.operations.ledger.log_position()
    last = call.number("last", head, 0, NUMBER_MAX)
    first = call.number("after", max(0, head - last), 0, NUMBER_MAX)
    after = call.number("cursor", first, 0, NUMBER_MAX)
    limit = call.limit()
    wait_seconds = call.wait_seconds()
    with call.services.waiters.enter():
        entries = await call.operations.log(
            after=after, limit=limit, wait_seconds=wait_seconds
        )
    # A page may be short because its events are long: only an empty one is the end.
    cursor = str(entries[-1].position) if entries else None
    items = [event_view(entry) for entry in entries]
    return JSONAnswer({"items": items, "next_cursor": cursor, "head": head})


async def live(call: Call) -> ASGIApp:
    """Tell that the daemon's loop turns."""
    del call
    return JSONAnswer({"status": "live"})


async def ready(call: Call) -> ASGIApp:
    """Tell whether the daemon takes tasks and its database answers."""
    obstacles = await call.services.health()
    if not obstacles:
        return JSONAnswer({"status": "ready"})
    return problem(503, "not_ready", "; ".join(obstacles), instance="/readyz")


async def metrics(call: Call) -> ASGIApp:
    """Show the metrics in Prometheus' text format."""
    render = call.services.metrics
    if render is None:
        return problem(404, "not_found", "no daemon runs here, so nothing is measured")
    content_type, body = await render(call.fields.get(b"accept"))
    return Response(body, headers={"Content-Type": content_type})


async def openapi(call: Call) -> ASGIApp:
    """Show this API's description."""
    return Response(call.services.document(), media_type="application/json")


def _listing(items: Sequence[Any]) -> ASGIApp:
    return JSONAnswer({"items": items, "next_cursor": None})
