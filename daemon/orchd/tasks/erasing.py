"""What is left of a task's events when its bodies are erased.

A body becomes a reference to nothing, a text that somebody may have written becomes a mark,
and what only describes a body goes. Ids, keys, names, times and counts stay, so that the
history of the task still says what happened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from orchd.tasks import events as e

ERASED_HASH = "erased"
"""Stands where the hash of a body was: no body has it."""
ERASED_TEXT = "[orchd: this text was erased]"
"""Stands where errors and feedback were."""


def without_bodies(event: e.TaskEvent) -> e.TaskEvent:
    """Return what is left of an event; doing it twice changes nothing more."""
    erase = _ERASERS.get(type(event))
    return event if erase is None else msgspec.structs.replace(event, **erase(event))


def _body(body: e.Body) -> e.BlobReference:
    size = body.size if isinstance(body, e.BlobReference) else len(body.encode())
    return e.BlobReference(ERASED_HASH, size)


def _text(text: str | None) -> str | None:
    return ERASED_TEXT if text else text


def _payload(payload: msgspec.Raw | None) -> msgspec.Raw | None:
    if payload is None or bytes(payload) == b"null":
        return payload
    known = e.read_reference(bytes(payload).decode())
    size = len(bytes(payload)) if known is None else known.size
    return msgspec.Raw(msgspec.json.encode(e.BlobReference(ERASED_HASH, size)))


def _submitted(event: e.TaskSubmitted) -> dict[str, Any]:
    return {
        "description": _body(event.description),
        "payload": _payload(event.payload),
        "metadata": None,
        "labels": {},
    }


def _executed(event: e.TaskExecuted) -> dict[str, Any]:
    return {"result": _body(event.result), "result_metadata": None}


def _verified(event: e.TaskVerified) -> dict[str, Any]:
    return {"feedback": _text(event.feedback), "issues": ()}


def _completed(event: e.TaskCompleted) -> dict[str, Any]:
    result = None if event.result is None else _body(event.result)
    return {"result": result, "result_metadata": None}


def _failed(event: e.TaskRetried | e.TaskFailed) -> dict[str, Any]:
    # The fingerprint is a hash of the error.
    return {
        "error": _text(event.error),
        "feedback": _text(event.feedback),
        "fingerprint": "",
    }


def _released(event: e.TaskReleased) -> dict[str, Any]:
    return {"error": _text(event.error)}


_ERASERS: dict[type[Any], Callable[[Any], dict[str, Any]]] = {
    e.TaskSubmitted: _submitted,
    e.TaskExecuted: _executed,
    e.TaskVerified: _verified,
    e.TaskRetried: _failed,
    e.TaskCompleted: _completed,
    e.TaskFailed: _failed,
    e.TaskReleased: _released,
}
