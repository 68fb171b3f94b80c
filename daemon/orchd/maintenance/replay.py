"""Replays the log and compares it with everything that is derived from it.

Checking and mending are one loop over spans of streams, which are examined in parallel.
Checking only reads and may run beside a daemon; mending repairs what differs, and what has
been looked at need not be looked at again by the next replay after an interruption.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack

import msgspec

from orchd.maintenance.counting import EventCounts, find_counter_errors
from orchd.maintenance.difference import Difference
from orchd.maintenance.errors import NoSuchTask, NotMended
from orchd.maintenance.examining import Found, Look, compare_page, find_strays
from orchd.maintenance.folding import KINDS, TASKS
from orchd.maintenance.helpers import (
    Part,
    Seen,
    examine_alone,
    fork_crew,
    share_out,
)
from orchd.maintenance.mending import Mender, OwnMender
from orchd.maintenance.opening import reading
from orchd.maintenance.progress import Progress, silent
from orchd.maintenance.reading import Span, StateReader, spans_between
from orchd.maintenance.resuming import Record, Resumption
from orchd.system import System

SPAN_EVENTS = 5_000
"""Events in one span, which is examined by one process and finished before it counts."""
SPANS_MAX = 1_024
ALONE_EVENTS_MAX = 30_000
"""A log that is no longer is examined faster than a helper would be at work."""
WRONG_MAX = 100_000
"""With more wrong rows than this, counters are not looked at: mend the rows first."""
KIND_OF_TABLE = {kind.table: kind for kind in KINDS}

Resumed = Callable[[Record], None]
"""Told when a replay goes on where an earlier one stopped."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to replay.

    Args:
        task_id: only this task, and no counter.
        jobs: processes to examine with; None for one on each core.
        progress: told how many events of how many have been examined.
        resumption: keeps the record of how far it got; None keeps none.
        resumed: told when the record of an earlier replay is trusted.
    """

    task_id: str | None = None
    jobs: int | None = None
    progress: Progress = silent
    resumption: Resumption | None = None
    resumed: Resumed = lambda record: None


def check(
    url: str, *, system: System, options: Options | None = None
) -> Iterator[Difference]:
    """Yield every difference between the log and what is derived from it.

    Changes nothing and may run beside a daemon.

    Raises:
        StateMissing: there is no state.
        NoSuchTask: neither the log nor a row knows the task that was named.
        UnreadableStream: a stream holds an unknown or damaged event.
    """
    with _Replay(url, system, options or Options(), mends=False) as replay:
        wrong: set[str] = set()
        for found in replay.examined():
            if any(difference.table == TASKS.table for difference in found.differences):
                wrong.update(found.keys[: WRONG_MAX + 1 - len(wrong)])
            yield from found.differences
        if len(wrong) <= WRONG_MAX:
            yield from replay.counter_differences(wrong)
        replay.end()


def mend(
    url: str,
    *,
    system: System,
    options: Options | None = None,
    mender: Mender | None = None,
) -> Iterator[Difference]:
    """Yield every difference, each mended from the log when it is yielded.

    Args:
        mender: whoever may write; by default this process, which locks a SQLite state
            when the first difference is found.

    Raises:
        StateLocked: something has to be mended, but a daemon has the SQLite state open.
        NotMended: something still differs although everything was tried.
    """
    with (
        _Replay(url, system, options or Options(), mends=True) as replay,
        OwnMender(url, system=system) as own,
    ):
        hand = mender or own
        left: dict[str, list[str]] = {}
        for found in replay.examined():
            kind = KIND_OF_TABLE[found.table]
            left.setdefault(kind.table, []).extend(hand.mend_rows(kind, found.keys))
            yield from found.differences
        _mend_leftovers(hand, left)
        differences = replay.counter_differences()
        if differences:
            hand.mend_counters()
            yield from differences
        replay.end()


def _mend_leftovers(mender: Mender, left: dict[str, list[str]]) -> None:
    # A value that must be unique may have been another wrong row's until now.
    for table, keys in left.items():
        still = mender.mend_rows(KIND_OF_TABLE[table], keys) if keys else []
        if still:
            raise NotMended(table, still)


class _Replay:
    """One replay: the spans that it examines, and how far it is."""

    def __init__(self, url: str, system: System, how: Options, *, mends: bool) -> None:
        self._url = url
        self._system = system
        self._how = how
        self._mends = mends
        self._done: set[int] = set()
        self._seen = 0
        self._counts: Counter[str] = Counter()
        self._tasks = 0
        self._is_whole = True
        """Whether this process examines all spans."""
        self._stack = ExitStack()
        self._open_reader: StateReader | None = None

    def __enter__(self) -> _Replay:
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()

    @property
    def _reader(self) -> StateReader:
        if self._open_reader is None:
            self._open_reader = self._stack.enter_context(
                reading(self._url, system=self._system)
            )
        return self._open_reader

    def _close(self) -> None:
        self._open_reader = None
        self._stack.close()

    def examined(self) -> Iterator[Found]:
        """Yield what is found in streams, then what is found without one."""
        if self._how.task_id is not None:
            yield from self._only(self._how.task_id)
            return
        self._head = self._reader.store.head().position
        yield from self._in_streams(self._plan(self._reader))
        yield from find_strays(self._reader, self._tasks if self._is_whole else None)

    def _only(self, task_id: str) -> Iterator[Found]:
        page = self._reader.page(TASKS, (task_id,))
        known = page.histories[task_id] or task_id in page.stored
        if not known and not any(page.derived[task_id]):
            raise NoSuchTask(task_id, self._reader.store.head().position)
        found = compare_page(page, self._reader.store.now)
        if found is not None:
            yield found

    def _plan(self, reader: StateReader) -> list[Span]:
        resumption = self._how.resumption
        found = None if resumption is None else resumption.find(reader)
        if found is not None:
            self._done = set(found.done)
            self._is_whole = not self._done
            self._how.resumed(found)
            return spans_between(found.bounds)
        spans = reader.spans(min(SPANS_MAX, 1 + self._head // SPAN_EVENTS))
        if resumption is not None:
            resumption.begin(reader, [s.up_to for s in spans if s.up_to is not None])
        return spans

    def _in_streams(self, spans: Sequence[Span]) -> Iterator[Found]:
        self._seen = self._head * len(self._done) // len(spans)
        places = [place for place in range(len(spans)) if place not in self._done]
        parts = [Part(spans[place], self._head) for place in places]
        unsound: set[int] = set()
        for number, look in self._examined_parts(parts):
            place = places[number]
            if look is not None:
                self._note(look)
                for found in look.found:
                    unsound.add(place)
                    yield found
            elif self._mends or place not in unsound:
                self._finish(place)

    def _examined_parts(self, parts: Sequence[Part]) -> Iterator[Seen]:
        if self._head > ALONE_EVENTS_MAX or self._how.jobs is not None:
            with fork_crew(self._reader, self._how.jobs, len(parts)) as crew:
                if crew:
                    yield from share_out(crew, parts, self._reader)
                    return
        yield from examine_alone(self._reader, parts)

    def _note(self, look: Look) -> None:
        self._seen += look.events
        self._counts.update(look.counts)
        self._tasks += look.tasks
        self._how.progress("events", self._seen, max(self._head, self._seen))

    def _finish(self, place: int) -> None:
        self._done.add(place)
        if self._how.resumption is not None:
            self._how.resumption.note(self._done)

    def counter_differences(self, wrong: Collection[str] = ()) -> tuple[Difference, ...]:
        """Return what is wrong with the counters, `wrong` tasks aside."""
        if self._how.task_id is not None:
            return ()
        counted = EventCounts(self._counts, self._head) if self._is_whole else None
        return find_counter_errors(
            self._reader, counted, wrong=wrong, progress=self._how.progress
        ).differences

    def end(self) -> None:
        """Everything was examined: there is nothing to go on with."""
        if self._how.resumption is not None:
            self._how.resumption.forget()
