"""What can happen to a task: one frozen type per stored event, and their stored form.

The stored form is canonical JSON text: sorted keys, no white space, defaults left out. A
field that a reader does not know is ignored, a field that is missing has its default; so
fields can be added and no old event ever changes its meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

if TYPE_CHECKING:
    OptionalRaw: TypeAlias = msgspec.Raw | None
else:
    # msgspec decodes any value into a Raw, but into a union with None only null.
    OptionalRaw = msgspec.Raw

SCHEMA_VERSION = 1
"""The version that `meta.schema` carries for events written by this program."""


class Event(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """The base of everything that is stored in the log as `data`."""


class BlobReference(msgspec.Struct, frozen=True, gc=False):
    """Stands in an event for a body that was too large to be stored inline."""

    hash: str = msgspec.field(name="$blob")
    """SHA-256 of the body's UTF-8 bytes, in lower-case hexadecimal."""
    size: int
    """Length of the body in bytes."""


Body: TypeAlias = str | BlobReference

REFERENCE_MARK = '{"$blob":'
"""How the stored form of a `BlobReference` begins. Whoever writes an event stores a user's
own payload that begins so as a blob, so that nobody takes it for a reference."""


def read_reference(text: str) -> BlobReference | None:
    """Return the reference that a payload's JSON text is; None when it is a payload."""
    if not text.startswith(REFERENCE_MARK):
        return None
    try:
        return msgspec.json.decode(text, type=BlobReference)
    except msgspec.ValidationError:
        return None


class EventMeta(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """Who wrote an event, when and why; stored beside `data` in every event."""

    schema: int
    """Schema version of `data`; always stored."""
    at: int
    """The ledger's clock when the transition was decided, in microseconds."""
    actor: str = ""
    """Who asked: `worker`, `cli`, `http`, `library`, or a name the caller gave."""
    reason: str = ""
    """Why, in the words of whoever asked."""
    traceparent: str | None = None
    """W3C trace context of the submitter or of the run."""
    worker: str | None = None
    """Id of the daemon start that wrote the event."""
    causation: str | None = None
    """Id of the command whose commit holds the event."""


class TaskSubmitted(Event, frozen=True, kw_only=True):
    """A task was accepted."""

    description: Body
    payload: OptionalRaw = None
    """Any JSON value but null; text that begins with `REFERENCE_MARK` is a reference."""
    executor: str
    verifiers: tuple[str, ...] = ()
    queue: str = "default"
    priority: int = 0
    run_at: int | None = None
    """Instant before which the task must not start."""
    max_attempts: int
    execute_timeout_seconds: float | None = None
    verify_timeout_seconds: float | None = None
    metadata: OptionalRaw = None
    """The user's JSON object."""
    labels: dict[str, str] = {}
    lane: str | None = None
    namespace: str = "default"
    parent_id: str | None = None
    idempotency_key: str | None = None
    body_hash: str = ""
    """SHA-256 over what was submitted, to tell a repetition from a conflict."""


class TaskStarted(Event, frozen=True, kw_only=True):
    """A worker claimed the task and may begin."""

    run: int
    attempt: int
    phase: str
    token: int
    """The stream version of this event; every later write of the run carries it."""
    worker: str
    deadline: int | None = None
    alone: bool = False
    """Whether nothing else may run in the same daemon meanwhile."""


class TaskExecuted(Event, frozen=True, kw_only=True):
    """The executor succeeded and its result is on disk; nothing has judged it yet."""

    run: int
    result: Body
    confidence: float | None = None
    result_metadata: OptionalRaw = None
    deadline: int | None = None


class TaskVerified(Event, frozen=True, kw_only=True):
    """One verifier gave its verdict."""

    run: int
    passed: bool
    verifier: str
    feedback: str = ""
    issues: tuple[str, ...] = ()
    confidence: float | None = None


class TaskRetried(Event, frozen=True, kw_only=True):
    """The attempt failed and another one follows."""

    run: int
    run_at: int
    error_class: str
    error: str = ""
    feedback: str | None = None
    fingerprint: str = ""


class TaskCompleted(Event, frozen=True, kw_only=True):
    """The task is done. `result` is absent when `task.executed` holds it."""

    run: int
    token: int
    result: Body | None = None
    confidence: float | None = None
    result_metadata: OptionalRaw = None
    verifiers: tuple[str, ...] = ()
    """The verifiers that passed within this same commit."""


class TaskFailed(Event, frozen=True, kw_only=True):
    """The task is in the dead-letter queue."""

    run: int
    error_class: str
    error: str = ""
    feedback: str | None = None
    fingerprint: str = ""


class TaskReleased(Event, frozen=True, kw_only=True):
    """The run ended without a verdict on the task; no attempt was charged."""

    run: int
    reason: str
    until: int | None = None
    """Instant before which it must not start again."""
    ref: str | None = None
    """What it waits for, when `until` alone does not say it."""
    error_class: str | None = None
    error: str | None = None
    crashed: bool = False
    """Whether the run was lost together with its worker."""


class TaskCancelRequested(Event, frozen=True, kw_only=True):
    """Somebody asked for a running task to be stopped."""


class TaskCancelled(Event, frozen=True, kw_only=True):
    """The task was cancelled; `run` is set when a run was stopped for it."""

    run: int | None = None


class TaskRequeued(Event, frozen=True, kw_only=True):
    """A dead letter goes back to the queue for a new round."""

    round: int
    verify_only: bool = False


class TaskDiscarded(Event, frozen=True, kw_only=True):
    """A dead letter was put away for good."""


class TaskLateResultRejected(Event, frozen=True, kw_only=True):
    """A run reported after it had lost the task; nothing else changed."""

    token: int
    run: int
    report: str
    """What the late run wanted to record."""


class TaskErased(Event, frozen=True, kw_only=True):
    """The bodies of a finished task were erased from the events that held them."""

    erased: tuple[tuple[int, str, str], ...] = msgspec.field(name="$erased", default=())
    """Position of each such event, and the hashes of its data before and now; see
    `orchd_eventstore.erasing`."""


TaskEvent: TypeAlias = (
    TaskSubmitted
    | TaskStarted
    | TaskExecuted
    | TaskVerified
    | TaskRetried
    | TaskCompleted
    | TaskFailed
    | TaskReleased
    | TaskCancelRequested
    | TaskCancelled
    | TaskRequeued
    | TaskDiscarded
    | TaskLateResultRejected
    | TaskErased
)

EVENT_TYPES: dict[str, type[TaskEvent]] = {
    "task.submitted": TaskSubmitted,
    "task.started": TaskStarted,
    "task.executed": TaskExecuted,
    "task.verified": TaskVerified,
    "task.retried": TaskRetried,
    "task.completed": TaskCompleted,
    "task.failed": TaskFailed,
    "task.released": TaskReleased,
    "task.cancel_requested": TaskCancelRequested,
    "task.cancelled": TaskCancelled,
    "task.requeued": TaskRequeued,
    "task.discarded": TaskDiscarded,
    "task.late_result_rejected": TaskLateResultRejected,
    "task.erased": TaskErased,
}
"""Every event of a task by its stored name. Add only."""

_NAMES: dict[type[Any], str] = {kind: name for name, kind in EVENT_TYPES.items()}
_ENCODER = msgspec.json.Encoder(order="sorted")
DECODERS = {name: msgspec.json.Decoder(kind).decode for name, kind in EVENT_TYPES.items()}
"""What `decode_event` calls for each name, for who decodes a whole log."""
_META_DECODER = msgspec.json.Decoder(EventMeta)


def event_name(event: TaskEvent) -> str:
    """Return the stored name of an event's type."""
    return _NAMES[type(event)]


def encode(value: Event | EventMeta) -> str:
    """Return the canonical JSON text of an event's data or meta."""
    return _ENCODER.encode(value).decode()


def decode_event(name: str, data: str) -> TaskEvent:
    """Return the event that `encode` wrote.

    Raises:
        KeyError: `name` is no event of a task.
        msgspec.ValidationError: the data lack a field or hold a wrong type.
    """
    event: TaskEvent = DECODERS[name](data)
    return event


def decode_meta(meta: str) -> EventMeta:
    """Return the meta that `encode` wrote."""
    return _META_DECODER.decode(meta)
