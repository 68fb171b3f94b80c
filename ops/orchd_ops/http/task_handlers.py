"""What the routes below `/v1/tasks` do."""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp

from orchd.config.instants import parse_past
from orchd.interfaces import TaskStatus
from orchd.ledger.port import TaskFilter
from orchd.operations.errors import Fault, invalid
from orchd.operations.json_text import shorten
from orchd_ops.http.answers import JSONAnswer
from orchd_ops.http.calls import Call

_STATUSES = tuple(status.value for status in TaskStatus)


async def submit(call: Call) -> ASGIApp:
    """Accept one task, or several at once."""
    call.check_query("each")
    key = call.idempotency_key()
    each = call.flag("each")
    body = await call.body()
    caller = call.caller()
    if not isinstance(body, list):
        if each:
            rule = "must be an array of tasks, because of each=true"
            raise invalid([Fault(field="", rule=rule)])
        one = await call.operations.submit(body, caller, key=key)
        return JSONAnswer(one.task, 201 if one.created else 200)
    if each:
        return _page(await call.operations.submit_each(body, caller, key=key))
    several = await call.operations.submit_all(body, caller, key=key)
    created = any(one.created for one in several)
    return _page([one.task for one in several], 201 if created else 200)


async def list_tasks(call: Call) -> ASGIApp:
    """List tasks, newest first."""
    call.check_query(
        "status", "queue", "executor", "error_class", "since", "limit", "cursor"
    )
    wanted = TaskFilter(
        statuses=_statuses(call),
        queue=call.text("queue"),
        executor=call.text("executor"),
        error_class=call.text("error_class"),
        since=await _since(call),
    )
    listing = await call.operations.tasks(
        wanted, limit=call.limit(), cursor=call.text("cursor")
    )
    return JSONAnswer(listing)


async def show_task(call: Call) -> ASGIApp:
    """Show a task, with `wait` as soon as it is terminal."""
    call.check_query("wait")
    wait_seconds = call.wait_seconds()
    with call.services.waiters.enter():
        task = await call.operations.task(call.path["id"], wait_seconds=wait_seconds)
    return JSONAnswer(task)


async def list_task_events(call: Call) -> ASGIApp:
    """List what happened to a task, in order."""
    call.check_query("limit", "cursor")
    limit = call.number("limit", 1000, 1, 1000)
    after = call.number("cursor", 0, 0, 2**31)
    events = await call.operations.task_events(call.path["id"])
    ahead = [event for event in events if event.version > after]
    shown = ahead[:limit]
    cursor = str(shown[-1].version) if len(ahead) > limit else None
    return JSONAnswer({"items": shown, "next_cursor": cursor})


async def explain_task(call: Call) -> ASGIApp:
    """Say in plain sentences why a task is where it is."""
    call.check_query()
    return JSONAnswer(await call.operations.why(call.path["id"]))


async def cancel_task(call: Call) -> ASGIApp:
    """Cancel a task, or ask the daemon that runs it to."""
    call.check_query()
    caller = call.caller(await call.reason())
    return JSONAnswer(await call.operations.cancel(call.path["id"], caller))


def _statuses(call: Call) -> tuple[str, ...]:
    given = call.query.getlist("status")
    statuses = [name for text in given for name in text.split(",") if name]
    for name in statuses:
        if name not in _STATUSES:
            rule = f"must be one of {', '.join(_STATUSES)}"
            raise invalid([Fault(field="status", rule=rule, value=shorten(name))])
    return tuple(dict.fromkeys(statuses))


async def _since(call: Call) -> int | None:
    text = call.text("since")
    if text is None:
        return None
    try:
        return parse_past(text, await call.operations.now())
    except ValueError as error:
        fault = Fault(field="since", rule=str(error), value=shorten(text))
        raise invalid([fault]) from None


def _page(items: list[Any], status: int = 200) -> ASGIApp:
    return JSONAnswer({"items": items, "next_cursor": None}, status)
