"""A task as it is handed in, and what becomes of it before it reaches the ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from orchd.config.durations import parse_duration
from orchd.config.instants import parse_rfc3339
from orchd.config.settings import BUILT_IN_EXECUTORS, ExecutorSettings, Settings
from orchd.operations.errors import Fault, TooLarge, invalid
from orchd.operations.json_text import canonical_object, shorten
from orchd.operations.names import ID_RULE, KEY_RULE, NAME_RULE, is_id, is_key, is_name
from orchd.system import MICROSECONDS_PER_SECOND
from orchd.tasks.events import TaskSubmitted

TASK_BYTES_MAX = 1024 * 1024
"""Largest canonical JSON text of a task."""
PRIORITY_MAX = 2**31 - 1
ATTEMPTS_MAX = 1_000_000
VERIFIERS_MAX = 32

# Python has `$` match before a last line end too; other languages, which read the pattern
# in the OpenAPI description, have no other word for the end.
_TRACEPARENT = r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$(?!\n)"

Id = Annotated[str, Meta(description=ID_RULE, min_length=1, max_length=200)]
Key = Annotated[str, Meta(description=KEY_RULE, min_length=1, max_length=200)]
Name = Annotated[str, Meta(description=NAME_RULE, min_length=1, max_length=200)]
Span = Annotated[str, Meta(description="A duration such as 250ms, 30s, 5m or PT1H.")]


class Submission(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A task as it goes in. A description, a payload, or both, are required."""

    id: Id | None = None
    idempotency_key: Key | None = None
    description: str | None = None
    payload: Any = None
    executor: Name | None = None
    verifiers: Annotated[list[Name], Meta(max_length=VERIFIERS_MAX)] | None = None
    queue: Name | None = None
    priority: Annotated[int, Meta(ge=-PRIORITY_MAX - 1, le=PRIORITY_MAX)] | None = None
    run_at: Annotated[str, Meta(description="Not before this time (RFC 3339).")] | None = (
        None
    )
    delay: Span | None = None
    timeout: Span | None = None
    max_attempts: Annotated[int, Meta(ge=1, le=ATTEMPTS_MAX)] | None = None
    metadata: dict[str, Any] | None = None
    traceparent: Annotated[str, Meta(pattern=_TRACEPARENT)] | None = None


class Known(NamedTuple):
    """What a submission may name: configured here, or advertised by a live daemon."""

    executors: frozenset[str]
    verifiers: frozenset[str]


class Canonical(NamedTuple):
    """The canonical text of a submission, and those of the fields that are kept as JSON."""

    whole: bytes
    payload: str | None
    metadata: str | None


class Resolved(NamedTuple):
    """A submission with every default filled in.

    `task_id` is None when neither an id nor a key was given. `named` tells whether the
    submitter chose the id.
    """

    task_id: str | None
    named: bool
    submitted: TaskSubmitted
    traceparent: str | None
    resolved_payload: str | None


_TYPES = {field.name: field.type for field in msgspec.structs.fields(Submission)}
_NAMES = _TYPES.keys()
_UNHASHED = frozenset({"id", "idempotency_key", "traceparent"})
_WHOLE_NUMBERS = ("priority", "max_attempts")
_UNCONFIGURED = ExecutorSettings(name="", type="")
"""What holds for an executor that only other daemons have."""


def read_submission(body: Any) -> tuple[Submission, Canonical]:
    """Check the form of a submission; return it with its canonical texts.

    Raises:
        Invalid: it breaks rules; all of them are named.
        TooLarge: its text is longer than `TASK_BYTES_MAX`.
    """
    if not isinstance(body, dict):
        fault = Fault(field="", rule="must be a JSON object", value=shorten(body))
        raise invalid([fault])
    given = {name: value for name, value in body.items() if value is not None}
    for name in _WHOLE_NUMBERS:
        # To JSON, 3.0 is an integer; Python reads it as a float.
        number = given.get(name)
        if isinstance(number, float) and number.is_integer():
            given[name] = int(number)
    hashed = {name: value for name, value in given.items() if name not in _UNHASHED}
    whole, texts = canonical_object(hashed)
    if len(whole) > TASK_BYTES_MAX:
        raise TooLarge(f"a task may have {TASK_BYTES_MAX} bytes of JSON, not more")
    submission = _formed(given)
    faults = _rule_faults(given)
    if faults:
        raise invalid(faults)
    return submission, Canonical(whole, texts.get("payload"), texts.get("metadata"))


def resolve(
    submission: Submission, text: Canonical, *, settings: Settings, known: Known, now: int
) -> Resolved:
    """Fill in every default; `now` is the ledger's clock in microseconds.

    Raises:
        Invalid: the executor or a verifier is not known, or none is given and there is
            no default.
    """
    executor = submission.executor or _default_executor(settings, known)
    verifiers = submission.verifiers
    if verifiers is None:
        verifiers = list(settings.tasks.verifiers)
    _check_known(executor, verifiers, known)
    chosen = settings.executors.get(executor)
    timeouts = chosen or _UNCONFIGURED
    retry = settings.retry if chosen is None else chosen.retry
    payload = text.payload
    metadata = text.metadata if submission.metadata else None
    submitted = TaskSubmitted(
        description=submission.description or "",
        payload=None if payload is None else msgspec.Raw(payload.encode()),
        executor=executor,
        verifiers=tuple(verifiers),
        queue=submission.queue or "default",
        priority=submission.priority or 0,
        run_at=_run_at(submission, now),
        max_attempts=submission.max_attempts or retry.max_attempts,
        execute_timeout_seconds=_seconds(submission.timeout) or timeouts.timeout_seconds,
        verify_timeout_seconds=timeouts.verify_timeout_seconds,
        metadata=None if metadata is None else msgspec.Raw(metadata.encode()),
        idempotency_key=submission.idempotency_key,
        body_hash=hashlib.sha256(text.whole).hexdigest(),
    )
    return Resolved(
        task_id=submission.id or _id_of_key(submission.idempotency_key),
        named=submission.id is not None,
        submitted=submitted,
        traceparent=submission.traceparent,
        resolved_payload=payload,
    )


def _formed(given: Mapping[str, Any]) -> Submission:
    # Field by field all faults are found, but only who made some has to wait for that.
    try:
        submission = msgspec.convert(given, Submission)
    except msgspec.ValidationError:
        submission = None
    if submission is None or not given.keys() <= _NAMES:
        raise invalid(_form_faults(given))
    return submission


def _form_faults(given: Mapping[str, Any]) -> list[Fault]:
    faults = []
    for name, value in given.items():
        if name not in _TYPES:
            rule = f"is no field of a task; the fields are {', '.join(_TYPES)}"
            faults.append(Fault(field=shorten(name), rule=rule, value=shorten(value)))
            continue
        try:
            msgspec.convert(value, _TYPES[name])
        except msgspec.ValidationError as error:
            faults.append(Fault(field=name, rule=str(error), value=shorten(value)))
    return faults


def _rule_faults(given: Mapping[str, Any]) -> list[Fault]:
    faults = []
    for name, check, rule in _RULES:
        value = given.get(name)
        if value is not None and not check(value):
            faults.append(Fault(field=name, rule=rule, value=shorten(value)))
    for index, verifier in enumerate(given.get("verifiers", ())):
        if not is_name(verifier):
            where = f"verifiers[{index}]"
            faults.append(Fault(field=where, rule=NAME_RULE, value=shorten(verifier)))
    if given.get("run_at") is not None and given.get("delay") is not None:
        rule = "cannot be given together with run_at"
        faults.append(Fault(field="delay", rule=rule, value=shorten(given["delay"])))
    if given.get("description") is None and given.get("payload") is None:
        rule = "is required, unless there is a payload"
        faults.append(Fault(field="description", rule=rule))
    return faults


def _reads(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return check


def _positive(text: str) -> bool:
    return _reads(parse_duration)(text) and parse_duration(text) > 0


_RULES: tuple[tuple[str, Callable[[str], bool], str], ...] = (
    ("id", is_id, ID_RULE),
    ("idempotency_key", is_key, KEY_RULE),
    ("executor", is_name, NAME_RULE),
    ("queue", is_name, NAME_RULE),
    (
        "run_at",
        _reads(parse_rfc3339),
        "must be a time with its offset from UTC, such as 2026-11-24T09:30:00Z",
    ),
    (
        "delay",
        _reads(parse_duration),
        "must be a duration such as 250ms, 30s or PT1H, of at most 36525d",
    ),
    (
        "timeout",
        _positive,
        "must be a duration above zero, such as 30s or PT1H, of at most 36525d",
    ),
)


def _default_executor(settings: Settings, known: Known) -> str:
    if settings.tasks.executor is not None:
        return settings.tasks.executor
    configured = {
        name
        for name in known.executors
        if name not in BUILT_IN_EXECUTORS
        or settings.executors.get(name, BUILT_IN_EXECUTORS[name])
        != BUILT_IN_EXECUTORS[name]
    }
    if len(configured) == 1:
        return configured.pop()
    rule = f"is required, for there is no default; known are {_listed(known.executors)}"
    raise invalid([Fault(field="executor", rule=rule)])


def _check_known(executor: str, verifiers: list[str], known: Known) -> None:
    faults = []
    if executor not in known.executors:
        rule = f"is not known; known are {_listed(known.executors)}"
        faults.append(Fault(field="executor", rule=rule, value=executor))
    for verifier in verifiers:
        if verifier not in known.verifiers:
            rule = f"is not known; known are {_listed(known.verifiers)}"
            faults.append(Fault(field="verifiers", rule=rule, value=verifier))
    if faults:
        raise invalid(faults)


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _run_at(submission: Submission, now: int) -> int | None:
    if submission.run_at is not None:
        return parse_rfc3339(submission.run_at)
    seconds = _seconds(submission.delay)
    return None if seconds is None else now + round(seconds * MICROSECONDS_PER_SECOND)


def _seconds(text: str | None) -> float | None:
    return None if text is None else parse_duration(text)


def _id_of_key(key: str | None) -> str | None:
    # A repetition under a key finds the same id, so that a batch can be looked up before
    # it is sent and the outcome of a lost answer is the same task.
    if key is None:
        return None
    return "key-" + hashlib.sha256(key.encode()).hexdigest()[:32]
