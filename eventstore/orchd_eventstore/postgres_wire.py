"""Batches and answers as they travel to and from the function that appends."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from orchd_eventstore.backend import Producer, Projections
from orchd_eventstore.errors import rejecting
from orchd_eventstore.events import (
    ANY_VERSION,
    NO_STREAM,
    Append,
    Appended,
    Blob,
    Commit,
    Conflict,
)
from orchd_eventstore.projection import Projection

_encode = msgspec.json.Encoder().encode


class Answer(msgspec.Struct, frozen=True):
    """What the function that appends returns."""

    repeated: bool = False
    won: list[int] | None = None
    """The items that were accepted; None for all of them."""
    versions: list[tuple[int, int]] | None = None
    """Item and last version of those that went to the end of their streams."""
    first: int | None = None
    last: int | None = None
    at: int | None = None
    answer: msgspec.Raw = msgspec.Raw(b"null")


decode_answer = msgspec.json.Decoder(Answer).decode


def _json(value: Any) -> str | None:
    return _encode(value).decode() if value else None


class Wire:
    """Encodes batches for a store with these projections."""

    def __init__(self, projections: Projections) -> None:
        self._projections = projections

    def parameters(
        self,
        items: Sequence[Append],
        command_id: str,
        blobs: Sequence[Blob],
        producer: Producer | None,
    ) -> list[Any]:
        """Return a batch as the function's parameters; may raise `BatchRejected`."""
        with rejecting():
            parameters = [
                command_id,
                len(items),
                _json(
                    [event for n, item in enumerate(items) for event in _events(n, item)]
                ),
                _json(_counters(items)),
                _json([_blob(blob) for blob in blobs]),
                any(item.projection is None for item in items),
                None if producer is None else producer.wish(),
            ]
            return parameters + self._rows(items)

    def _rows(self, items: Sequence[Append]) -> list[Any]:
        inserts: dict[str, list[Any]] = {}
        updates: dict[tuple[str, bool], list[Any]] = {}
        for number, item in enumerate(items):
            if item.projection is None:
                continue
            projection, row = self._projections[item.projection], item.row
            assert row is not None
            if item.expected_version == NO_STREAM:
                columns = projection.columns
                into = inserts.setdefault(projection.name, [])
            else:
                narrow = projection.is_narrow(item.changed)
                columns = projection.keyed_narrow if narrow else projection.keyed_mutable
                into = updates.setdefault((projection.name, narrow), [])
            # What is not named is NULL, and the server has less to read.
            values = {
                name: value
                for name, value in zip(
                    columns, projection.values(row, columns), strict=True
                )
                if value is not None
            }
            values["item"], values["expected"] = number, item.expected_version
            into.append(values)
        return [
            parameter
            for projection in self._projections.values()
            for parameter in self._row_parameters(projection, inserts, updates)
        ]

    def _row_parameters(
        self,
        projection: Projection,
        inserts: dict[str, list[Any]],
        updates: dict[tuple[str, bool], list[Any]],
    ) -> list[Any]:
        name, key = projection.name, projection.key
        kinds = [updates.get((name, narrow), []) for narrow in (False, True)]
        for rows in kinds:
            rows.sort(key=lambda row: row[key])
        # One statement takes its rows in their order; two need them locked before.
        keys = [row[key] for rows in kinds for row in rows] if all(kinds) else None
        return [_json(inserts.get(name)), _json(kinds[0]), _json(kinds[1]), keys]


def _events(number: int, item: Append) -> Iterator[dict[str, Any]]:
    bare = item.projection is None
    base = max(item.expected_version, 0)
    for offset, event in enumerate(item.events, start=1):
        fields = {
            "item": number,
            "stream": item.stream,
            "version": base + offset,
            "type": event.type,
            "data": event.data,
            "meta": event.meta,
        }
        yield {**fields, "expected": item.expected_version} if bare else fields


def _counters(items: Sequence[Append]) -> list[dict[str, Any]]:
    # Most items add the same to the same counters, so the items are listed by that.
    adding: dict[tuple[str, int], list[int]] = {}
    for number, item in enumerate(items):
        for change in item.counters.items():
            adding.setdefault(change, []).append(number)
    return [
        {"name": name, "delta": delta, "items": numbers}
        for (name, delta), numbers in adding.items()
        if delta
    ]


def _blob(blob: Blob) -> dict[str, Any]:
    return {
        "hash": blob.hash,
        "size": blob.size,
        "encoding": blob.encoding,
        "body": base64.b64encode(blob.body).decode(),
    }


def commit_of(command_id: str, items: Sequence[Append], answer: Answer) -> Commit:
    """Return what the function's answer says of each item."""
    won = None if answer.won is None else frozenset(answer.won)
    versions = dict(answer.versions or ())
    position = answer.first or 0
    outcomes: list[Appended | Conflict] = []
    for number, item in enumerate(items):
        if won is not None and number not in won:
            outcomes.append(Conflict())
            continue
        count = len(item.events)
        version = item.expected_version + count
        if item.expected_version == ANY_VERSION:
            version = versions[number]
        last = position + count - 1
        outcomes.append(
            Appended(first_position=position, last_position=last, version=version)
        )
        position += count
    return Commit(
        command_id=command_id,
        first_position=answer.first,
        last_position=answer.last,
        recorded_at=answer.at,
        outcomes=tuple(outcomes),
        answer=None if bytes(answer.answer) == b"null" else answer.answer,
    )
