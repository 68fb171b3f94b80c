"""Where crashes can strike the engine, and where they did.

An `await` was hit when a process was killed while a coroutine was suspended in it. A write
was hit when its process was killed before it was applied, or after that and before the
answer came.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple, get_args

import msgspec

import orchd.engine
from orchd.breakers import BreakerCommand
from orchd.daemons import CheckpointCreated, DaemonEvent
from orchd.tasks.commands import Start, Submit, TaskCommand
from simulation.connection import Connection
from simulation.world import Process

ENGINE = Path(inspect.getfile(orchd.engine)).parent
PHASES = ("before", "after")
_INSTRUCTION_BYTES = 2


class Site(NamedTuple):
    """One `await` of the engine (or `async for`, or `async with`)."""

    module: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.module}:{self.line}:{self.column}"

    @property
    def text(self) -> str:
        """The line of source that it is in."""
        return (ENGINE / self.module).read_text().splitlines()[self.line - 1].strip()


class WriteSite(NamedTuple):
    """One kind of write, before it is applied or after."""

    kind: str
    phase: str

    def __str__(self) -> str:
        return f"{self.phase} {self.kind}"


@lru_cache(maxsize=1)
def await_sites() -> tuple[Site, ...]:
    """Return every await of the engine's modules."""
    sites: list[Site] = []
    for path in sorted(ENGINE.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            sites += [Site(path.name, *place) for place in _places(node)]
    return tuple(sorted(sites))


def _places(node: ast.AST) -> Iterator[tuple[int, int]]:
    if isinstance(node, ast.Await | ast.AsyncFor):
        yield node.lineno, node.col_offset
    elif isinstance(node, ast.AsyncWith):
        for item in node.items:
            # A time limit is entered and left without suspending.
            if not _is_time_limit(item.context_expr):
                yield item.context_expr.lineno, item.context_expr.col_offset
    elif isinstance(node, ast.comprehension) and node.is_async:
        yield node.iter.lineno, node.iter.col_offset


def _is_time_limit(context: ast.expr) -> bool:
    return ast.unparse(context).startswith("asyncio.timeout(")


@lru_cache(maxsize=1)
def write_sites() -> tuple[WriteSite, ...]:
    """Return every kind of write that a daemon makes, before and after."""
    kinds = ["claim", "claim/probe", "claim/alone", "submit", "queue/pause", "queue/resume"]
    kinds += [
        f"lease/{verb}" for verb in ("register", "advertise", "renew", "fence", "retire")
    ]
    commands = set(get_args(TaskCommand)) - {Submit, Start}
    kinds += [f"act/{command.__name__}" for command in commands]
    kinds += [f"breaker/{command.__name__}" for command in get_args(BreakerCommand)]
    # Checkpoints are made by the command line, not by the engine.
    events = set(get_args(DaemonEvent)) - {CheckpointCreated}
    kinds += [f"daemon/{event.__name__}" for event in events]
    return tuple(WriteSite(kind, phase) for kind in sorted(kinds) for phase in PHASES)


class Coverage(msgspec.Struct):
    """What crashes have hit so far."""

    awaits: set[Site] = msgspec.field(default_factory=set)
    writes: set[WriteSite] = msgspec.field(default_factory=set)

    def note_crash(self, process: Process, connection: Connection) -> None:
        """Look at a process that is about to be killed."""
        for task in process.loop.pending():
            self.awaits.update(suspended(task.get_coro()))
        for flight in connection.flights:
            phase = PHASES[flight.applied]
            self.writes.update(WriteSite(kind, phase) for kind in flight.kinds)

    def add(self, other: Coverage) -> None:
        """Take over what another has seen."""
        self.awaits |= other.awaits
        self.writes |= other.writes

    def missed(self) -> list[Site | WriteSite]:
        """Return what no crash has hit."""
        wanted: Iterable[Site | WriteSite] = (*await_sites(), *write_sites())
        return [s for s in wanted if s not in self.awaits and s not in self.writes]

    def report(self) -> list[str]:
        """Return lines for people."""
        awaits, writes = await_sites(), write_sites()
        missed = [f"  never hit: {site}" for site in self.missed()]
        return [
            f"awaits of the engine hit by a crash: {len(self.awaits & set(awaits))}"
            f" of {len(awaits)}",
            f"kinds of writes hit by a crash, before and after: "
            f"{len(self.writes & set(writes))} of {len(writes)}",
            *missed,
        ]


def suspended(coroutine: Any) -> Iterator[Site]:
    """Yield the awaits of the engine in which a coroutine is suspended, outermost first."""
    while coroutine is not None:
        frame: FrameType | None = getattr(coroutine, "cr_frame", None)
        if frame is None:
            return
        site = _site(frame.f_code, frame.f_lasti)
        if site is not None:
            yield site
        coroutine = coroutine.cr_await


@lru_cache(maxsize=4096)
def _site(code: CodeType, instruction: int) -> Site | None:
    path = Path(code.co_filename)
    if path.parent != ENGINE:
        return None
    positions = list(code.co_positions())[instruction // _INSTRUCTION_BYTES]
    line, _, column, _ = positions
    return Site(path.name, line or 0, column or 0)
