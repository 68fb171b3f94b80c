"""Contexts and answers as they travel between the daemon and its Python children."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from orchd.executors.port import Deferred, Failure, Final, RunContext, Success
from orchd.processes.text import storable_text
from orchd.verifiers.port import Broken, Passed, Rejected

Answer = Success | Failure | Final | Deferred | Passed | Rejected | Broken
_KINDS: dict[str, type[Answer]] = {
    kind.__name__: kind
    for kind in (Success, Failure, Final, Deferred, Passed, Rejected, Broken)
}
_LEFT_OUT = ("payload", "heartbeat", "task")
_TEXT_BYTES_MAX = 32 * 1024
_METADATA_NOTE = "orchd: the metadata could not be encoded"


def context_message(context: RunContext) -> dict[str, Any]:
    """Return a context as a message."""
    fields = (f for f in context.__struct_fields__ if f not in _LEFT_OUT)
    return {field: getattr(context, field) for field in fields}


def context_of(message: dict[str, Any], heartbeat: Callable[[], None]) -> RunContext:
    """Return the context that a message carries."""
    text = message.get("payload_text")
    payload = None if text is None else msgspec.json.decode(text)
    return RunContext(**message, payload=payload, heartbeat=heartbeat)


def answer_message(answer: Answer, output_bytes_max: int) -> dict[str, Any]:
    """Return an answer as a message whose texts can be stored.

    Args:
        output_bytes_max: the most of a result that is sent.
    """
    body = {field: getattr(answer, field) for field in answer.__struct_fields__}
    for field, value in body.items():
        if isinstance(value, str):
            limit = output_bytes_max if field == "output" else _TEXT_BYTES_MAX
            body[field] = storable_text(str(value), limit)
    if "issues" in body:
        body["issues"] = [storable_text(i, _TEXT_BYTES_MAX) for i in body["issues"]]
    if "metadata" in body:
        body["metadata"] = _encoded_metadata(body["metadata"])
    return {"kind": type(answer).__name__, "body": body}


def answer_of(message: dict[str, Any]) -> Answer:
    """Return the answer that a message carries.

    Raises:
        KeyError, msgspec.ValidationError: it carries none.
    """
    kind = _KINDS[message["kind"]]
    return msgspec.convert(message["body"], type=kind)


def _encoded_metadata(metadata: object) -> Any:
    try:
        return msgspec.Raw(msgspec.json.encode(metadata, enc_hook=repr))
    except Exception as error:
        return {"note": f"{_METADATA_NOTE} ({type(error).__name__})"}
