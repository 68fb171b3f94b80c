"""Spreads the examination of a log over the cores of this machine.

Threads would not help, because folding is Python. So copies of this process each examine a
part with a connection of their own, and tell what they saw; nobody but this process writes.
"""

from __future__ import annotations

import gc
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

from orchd.errors import OrchdError, StateUnreadable
from orchd.maintenance.examining import Look, examine
from orchd.maintenance.reading import Span, StateReader
from orchd.system import (
    Channel,
    Helper,
    fork_helper,
    usable_cores,
    wait_for_helpers,
)
from orchd_eventstore import EventStoreError

HELPERS_MAX = 8


class Part(NamedTuple):
    """What one process examines at once; see `orchd.maintenance.examining.examine`."""

    span: Span
    head: int


class Seen(NamedTuple):
    """One look, or with `look` None the end of a part."""

    part: int
    """Its place among the parts."""
    look: Look | None


class _Trouble(NamedTuple):
    """Why a helper could not go on."""

    message: str
    exit_code: int | None
    """What the program is to end with; None for an error that nobody foresaw."""


class HelperStopped(StateUnreadable):
    """What a helper could not go on for, in its own words."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def examine_alone(reader: StateReader, parts: Sequence[Part]) -> Iterator[Seen]:
    """Examine all parts in this process."""
    for number, part in enumerate(parts):
        for look in examine(reader, *part):
            yield Seen(number, look)
        yield Seen(number, None)


@contextmanager
def fork_crew(
    reader: StateReader, wanted: int | None, parts: int
) -> Iterator[list[Helper]]:
    """Lend helpers: `wanted`, or one on each core, but not more than parts.

    There are none where one would do, or where this process cannot be copied. They read
    with copies of the reader, which opens the state much faster than it was opened first.
    """
    count = min(usable_cores() if wanted is None else wanted, HELPERS_MAX, parts)
    with ExitStack() as stack:
        crew: list[Helper] = []
        if count > 1:
            reader.let_go()
        for _ in range(count if count > 1 else 0):
            helper = fork_helper(lambda connection: _help(connection, reader))
            if helper is not None:
                stack.callback(helper.end)
                crew.append(helper)
        yield crew


def share_out(
    crew: Sequence[Helper], parts: Sequence[Part], reader: StateReader
) -> Iterator[Seen]:
    """Let helpers examine all parts; what is seen of several parts comes in any order.

    Meanwhile the reader that they are copies of gets ready for what is read at the end.

    Raises:
        HelperStopped: whatever a helper cannot go on for.
    """
    waiting = deque(enumerate(parts))
    at_work: dict[Helper, int] = {}
    for helper in crew:
        _assign(helper, waiting, at_work)
    reader.get_ready()
    while at_work:
        for helper in wait_for_helpers(list(at_work)):
            message = _received(helper.connection)
            yield Seen(at_work[helper], message)
            if message is None:
                _assign(helper, waiting, at_work)


def _assign(
    helper: Helper, waiting: deque[tuple[int, Part]], at_work: dict[Helper, int]
) -> None:
    at_work.pop(helper, None)
    if waiting:
        at_work[helper], part = waiting.popleft()
        helper.connection.send(part)


def _received(connection: Channel) -> Look | None:
    try:
        message = connection.recv()
    except (EOFError, ConnectionError):
        raise StateUnreadable(
            "a process that helped was killed; perhaps memory ran out: try --jobs 1"
        ) from None
    if isinstance(message, _Trouble):
        if message.exit_code is not None:
            raise HelperStopped(message.message, message.exit_code)
        raise RuntimeError(f"in a process that helped: {message.message}")
    look: Look | None = message
    return look


def _help(connection: Channel, reader: StateReader) -> None:
    # What it does makes no cycles, and looking for them would take a while.
    gc.disable()
    # Whoever asked may be gone at any time; then nobody wants to hear anything.
    with suppress(EOFError, ConnectionError):
        try:
            while True:
                for look in examine(reader, *connection.recv()):
                    connection.send(look)
                connection.send(None)
        except OrchdError as error:
            connection.send(_Trouble(str(error), error.exit_code))
        except EventStoreError as error:
            connection.send(_Trouble(str(error), StateUnreadable.exit_code))
        except (EOFError, ConnectionError):
            raise
        except Exception:
            connection.send(_Trouble(traceback.format_exc(), None))
        finally:
            reader.let_go()
