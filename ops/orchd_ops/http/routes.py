"""Every route, once: what it does, takes and answers. The API's description follows."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from orchd.operations.dead_letters import DeadLetterChoice, DeadLetterPage
from orchd.operations.operations import Each, TaskListing, Why
from orchd.operations.submission import Submission
from orchd.operations.upkeep import CheckpointNote, Erased, Mended, Mending, Noted
from orchd.operations.views import (
    BreakerInfo,
    EventView,
    QueueInfo,
    TaskView,
    View,
    WorkerInfo,
)
from orchd_ops.http import control_handlers as control
from orchd_ops.http import task_handlers as tasks
from orchd_ops.http import upkeep_handlers as upkeep
from orchd_ops.http.calls import Handler
from orchd_ops.http.streams import stream_events


class Parameter(NamedTuple):
    """A parameter of the query."""

    name: str
    description: str
    schema: dict[str, Any]


class Endpoint(NamedTuple):
    """One method of one path."""

    method: str
    path: str
    handler: Handler
    answer: Any
    """The type of a successful answer, or the media type of one that is no JSON."""
    parameters: tuple[Parameter, ...] = ()
    body: Any = None
    """The type of the request's body."""
    body_required: bool = True
    statuses: tuple[int, ...] = (200,)
    problems: tuple[int, ...] = ()
    headers: tuple[Parameter, ...] = ()


class EventListing(View, frozen=True, kw_only=True):
    """One page of events."""

    items: list[EventView]
    next_cursor: str | None


class LogPage(EventListing, frozen=True, kw_only=True):
    """One page of the log."""

    head: int
    """The log's last position when the page was read."""


class QueueListing(View, frozen=True, kw_only=True):
    """All queues."""

    items: list[QueueInfo]
    next_cursor: str | None


class BreakerListing(View, frozen=True, kw_only=True):
    """All breakers."""

    items: list[BreakerInfo]
    next_cursor: str | None


class WorkerListing(View, frozen=True, kw_only=True):
    """All daemons."""

    items: list[WorkerInfo]
    next_cursor: str | None


class EachListing(View, frozen=True, kw_only=True):
    """What became of each task of an array."""

    items: list[Each]
    next_cursor: str | None


class State(View, frozen=True, kw_only=True):
    """How the daemon is."""

    status: str


class Reason(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Why somebody does something; it is kept in the log."""

    reason: str | None = None


def _text(name: str, description: str) -> Parameter:
    return Parameter(name, description, {"type": "string"})


_LIMIT = Parameter(
    "limit",
    "The size of a page.",
    {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
)
_EVENT_LIMIT = _LIMIT._replace(schema=_LIMIT.schema | {"default": 1000})
_POSITION = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
_CURSOR = _text("cursor", "The next_cursor of the page before.")
_WAIT = _text("wait", "A duration, up to 60s, to wait for news.")
_STATUS = Parameter(
    "status",
    "One or more statuses, repeated or separated by commas.",
    {"type": "array", "items": {"type": "string"}},
)
_COMMON = (
    _text("queue", "Only of this queue."),
    _text("executor", "Only for this executor."),
    _text("error_class", "Only with this class of error."),
)
_KEY = _text("Idempotency-Key", "Makes a repetition find the task of the first time.")
_TRACE = _text("traceparent", "W3C trace context.")
_SEEN = Parameter("Last-Event-ID", "The last position seen.", _POSITION)

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("GET", "/livez", control.live, State),
    Endpoint("GET", "/readyz", control.ready, State, problems=(503,)),
    Endpoint("GET", "/metrics", control.metrics, "text/plain", problems=(404,)),
    Endpoint("GET", "/openapi.json", control.openapi, dict[str, Any]),
    Endpoint(
        "POST",
        "/v1/tasks",
        tasks.submit,
        TaskView | TaskListing | EachListing,
        parameters=(
            Parameter(
                "each",
                "Accept of an array what can be accepted, instead of all or nothing.",
                {"type": "boolean", "default": False},
            ),
        ),
        body=Submission | list[Submission],
        statuses=(200, 201),
        problems=(409,),
        headers=(_KEY, _TRACE),
    ),
    Endpoint(
        "GET",
        "/v1/tasks",
        tasks.list_tasks,
        TaskListing,
        parameters=(
            _STATUS,
            *_COMMON,
            _text("since", "Created since: a time, or a duration ago."),
            _LIMIT,
            _CURSOR,
        ),
    ),
    Endpoint(
        "GET",
        "/v1/tasks/{id}",
        tasks.show_task,
        TaskView,
        parameters=(_WAIT,),
        problems=(404,),
    ),
    Endpoint(
        "GET",
        "/v1/tasks/{id}/events",
        tasks.list_task_events,
        EventListing,
        parameters=(_EVENT_LIMIT, _CURSOR),
        problems=(404,),
    ),
    Endpoint("GET", "/v1/tasks/{id}/why", tasks.explain_task, Why, problems=(404,)),
    Endpoint(
        "POST",
        "/v1/tasks/{id}/cancel",
        tasks.cancel_task,
        TaskView,
        body=Reason,
        body_required=False,
        problems=(404, 409),
    ),
    Endpoint(
        "POST",
        "/v1/tasks/{id}/erase",
        upkeep.erase_task,
        Erased,
        body=Reason,
        body_required=False,
        problems=(404, 409),
    ),
    Endpoint(
        "GET",
        "/v1/events",
        stream_events,
        "text/event-stream",
        parameters=(
            Parameter(
                "after",
                "The last position seen, or latest.",
                {"anyOf": [_POSITION, {"const": "latest"}]},
            ),
        ),
        headers=(_SEEN,),
    ),
    Endpoint(
        "GET",
        "/v1/log",
        control.read_log,
        LogPage,
        parameters=(
            Parameter("after", "The last position seen.", _POSITION),
            Parameter("last", "Begin with the last so many events.", _POSITION),
            _LIMIT,
            _CURSOR,
            _WAIT,
        ),
    ),
    Endpoint(
        "GET",
        "/v1/dlq",
        control.list_dead_letters,
        TaskListing,
        parameters=(
            *_COMMON,
            _text("older_than", "Last changed before: a time, or a duration ago."),
            _LIMIT,
            _CURSOR,
        ),
    ),
    Endpoint(
        "POST",
        "/v1/dlq/requeue",
        control.requeue_dead_letters,
        DeadLetterPage,
        body=DeadLetterChoice,
        problems=(404, 409),
    ),
    Endpoint(
        "POST",
        "/v1/dlq/discard",
        control.discard_dead_letters,
        DeadLetterPage,
        body=DeadLetterChoice,
        problems=(404, 409),
    ),
    Endpoint("GET", "/v1/queues", control.list_queues, QueueListing),
    Endpoint(
        "POST",
        "/v1/queues/{name}/pause",
        control.pause_queue,
        QueueInfo,
        body=Reason,
        body_required=False,
    ),
    Endpoint(
        "POST",
        "/v1/queues/{name}/resume",
        control.resume_queue,
        QueueInfo,
        body=Reason,
        body_required=False,
    ),
    Endpoint("GET", "/v1/breakers", control.list_breakers, BreakerListing),
    Endpoint(
        "POST",
        "/v1/breakers/{name}/reset",
        control.reset_breaker,
        BreakerInfo,
        body=Reason,
        body_required=False,
        problems=(404,),
    ),
    Endpoint("GET", "/v1/workers", control.list_workers, WorkerListing),
    Endpoint("POST", "/v1/upkeep/mend", upkeep.mend, Mended, body=Mending, problems=(409,)),
    Endpoint(
        "POST",
        "/v1/upkeep/checkpoints",
        upkeep.note_checkpoint,
        Noted,
        body=CheckpointNote,
        statuses=(201,),
    ),
)
