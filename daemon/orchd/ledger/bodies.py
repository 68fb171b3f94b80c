"""Bodies that are too large for an event become blobs, before anything folds them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from orchd.ledger.port import Bodies
from orchd.tasks import commands as c
from orchd.tasks.erasing import ERASED_HASH
from orchd.tasks.events import REFERENCE_MARK, BlobReference, Body, TaskSubmitted
from orchd.tasks.state import TaskState
from orchd_eventstore import Blob

INLINE_BYTES_MAX = 2 * 1024
"""Largest body that is stored in its event. SQLite writes a row anew, bodies included, with
every change of its status; what is larger costs more there than a row of its own."""
ERASED = "[orchd: this body was erased]"


class BlobCollector:
    """Collects the blobs of one commit."""

    def __init__(self) -> None:
        self._blobs: dict[str, Blob] = {}

    @property
    def blobs(self) -> Sequence[Blob]:
        """What was taken out of the commands, each body once."""
        return tuple(self._blobs.values())

    def stored(self, command: Any) -> Any:
        """Return a command with its large bodies replaced by references.

        Raises:
            ValueError: a body cannot be stored as text.
        """
        if isinstance(command, c.Submit):
            submitted = self._submitted(command.submitted)
            if submitted is command.submitted:
                return command
            return msgspec.structs.replace(command, submitted=submitted)
        output, verdict = (
            getattr(command, "output", None),
            getattr(command, "verdict", None),
        )
        changes: dict[str, Any] = {}
        if output is not None and (kept := self._output(output)) is not output:
            changes["output"] = kept
        if verdict is not None and not _is_finite(verdict.confidence):
            changes["verdict"] = msgspec.structs.replace(verdict, confidence=None)
        return msgspec.structs.replace(command, **changes) if changes else command

    def _submitted(self, submitted: TaskSubmitted) -> TaskSubmitted:
        changes: dict[str, Any] = {}
        description = self._body(submitted.description)
        if description is not submitted.description:
            changes["description"] = description
        if submitted.payload is not None:
            payload = bytes(submitted.payload)
            if len(payload) > INLINE_BYTES_MAX or payload.startswith(
                REFERENCE_MARK.encode()
            ):
                reference = msgspec.json.encode(self._keep(payload))
                changes["payload"] = msgspec.Raw(reference)
        return msgspec.structs.replace(submitted, **changes) if changes else submitted

    def _output(self, output: c.Output) -> c.Output:
        body, is_finite = self._body(output.result), _is_finite(output.confidence)
        if body is output.result and is_finite:
            return output
        confidence = output.confidence if is_finite else None
        return msgspec.structs.replace(output, result=body, confidence=confidence)

    def _body(self, body: Body) -> Body:
        if isinstance(body, BlobReference) or len(body) * 4 <= INLINE_BYTES_MAX:
            return body
        encoded = body.encode()
        return body if len(encoded) <= INLINE_BYTES_MAX else self._keep(encoded)

    def _keep(self, encoded: bytes) -> BlobReference:
        blob = Blob.of(encoded)
        self._blobs[blob.hash] = blob
        return BlobReference(blob.hash, blob.size)


def _is_finite(number: float | None) -> bool:
    # JSON has no infinity: the log would hold null and the row another value.
    return number is None or math.isfinite(number)


def load_bodies(
    states: Sequence[TaskState],
    stored: Callable[[Collection[str]], Mapping[str, bytes]],
) -> list[Bodies]:
    """Return the full texts of some tasks; an erased body reads as `ERASED`.

    Args:
        stored: returns the blobs with these hashes, as far as they are stored.
    """
    digests = {digest for state in states for digest in _digests(state)}
    found = stored(digests) if digests else {}
    return [_bodies(state, found) for state in states]


def _digests(state: TaskState) -> Iterator[str]:
    for digest in (state.description_blob, state.payload_blob, state.result_blob):
        if digest is not None and digest != ERASED_HASH:
            yield digest


def _bodies(state: TaskState, blobs: Mapping[str, bytes]) -> Bodies:
    def text(inline: str | None, digest: str | None, erased: str = ERASED) -> str | None:
        if digest is None:
            return inline
        body = blobs.get(digest)
        return erased if body is None else body.decode()

    return Bodies(
        description=text(state.description, state.description_blob) or "",
        # A payload is JSON, so its mark is too.
        payload=text(state.payload, state.payload_blob, f'"{ERASED}"'),
        result=text(state.result, state.result_blob),
    )
