"""Walks through the log once and checks the rules that every run of a task obeys."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from orchd.maintenance.progress import Progress
from orchd.tasks.failures import ErrorClass
from orchd_eventstore import EventStore, RecordedEvent

PAGE_EVENTS = 2_000
RUN_ENDS = frozenset(
    {
        "task.completed",
        "task.retried",
        "task.failed",
        "task.released",
        "task.cancelled",
    }
)


class _Facts(msgspec.Struct, frozen=True):
    """What the rules need of an event's data."""

    run: int | None = None
    token: int | None = None
    alone: bool = False
    error_class: str | None = None


_decode = msgspec.json.Decoder(_Facts).decode


class _Run(msgspec.Struct, frozen=True):
    run: int
    token: int
    alone: bool


def broken_rules(store: EventStore, progress: Progress) -> Iterator[str]:
    """Yield a sentence for each event that breaks a rule of runs.

    A run starts when none is under way, ends once, and a completion carries the token of
    the run that it ends. Only a task that ran alone is dead-lettered for crashing.
    """
    under_way: dict[str, _Run] = {}
    position, last = 0, store.head().position
    while position < last:
        page = store.read_all(after=position, up_to=last, limit=PAGE_EVENTS)
        if not page:
            return
        for event in page:
            if event.type == "task.started" or event.type in RUN_ENDS:
                why = _broken(under_way, event)
                if why:
                    yield f"{event.stream}, position {event.position}: {why}"
        position = page[-1].position
        progress("runs", position, last)


def _broken(under_way: dict[str, _Run], event: RecordedEvent) -> str:
    try:
        facts = _decode(event.data)
    except msgspec.MsgspecError as error:
        return f"its data cannot be read ({error})"
    if event.type == "task.started":
        before = under_way.get(event.stream)
        run = _Run(facts.run or 0, facts.token or 0, facts.alone)
        under_way[event.stream] = run
        if before is not None:
            return f"run {run.run} started while run {before.run} was under way"
        if facts.token != event.version:
            return f"run {run.run} has the token {facts.token}, not {event.version}"
        return ""
    if event.type == "task.cancelled" and facts.run is None:
        return ""
    return _broken_end(under_way.pop(event.stream, None), event, facts)


def _broken_end(run: _Run | None, event: RecordedEvent, facts: _Facts) -> str:
    if run is None or run.run != facts.run:
        return f"run {facts.run} ended but was not under way"
    if event.type == "task.completed" and facts.token != run.token:
        return f"run {run.run} was completed with token {facts.token}, not {run.token}"
    crashed = event.type == "task.failed" and facts.error_class == ErrorClass.CRASHED
    if crashed and not run.alone:
        return f"run {run.run} failed for crashing although it did not run alone"
    return ""
