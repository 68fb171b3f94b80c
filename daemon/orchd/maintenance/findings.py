"""What the checks of the doctor look at, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import msgspec

from orchd.config.settings import Settings
from orchd.maintenance.progress import Progress
from orchd.maintenance.reading import StateReader
from orchd.system import System

SHOWN_MAX = 5
"""Most single things that one check names."""

Level = Literal["ok", "mended", "warn", "fail"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one check found, or one repair did."""

    check: str
    level: Level
    detail: str
    hint: str = ""
    """What to do; empty when nothing is wrong."""

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as a JSON object."""
        return msgspec.structs.asdict(self)


class Examination(msgspec.Struct, frozen=True):
    """What the checks look at."""

    settings: Settings
    system: System
    reader: StateReader
    progress: Progress


Check: TypeAlias = Callable[[Examination], Iterator[Finding]]


def ok(check: str, detail: str) -> Finding:
    """Return that all is well."""
    return Finding(check=check, level="ok", detail=detail)


def mended(check: str, detail: str) -> Finding:
    """Return what a repair did."""
    return Finding(check=check, level="mended", detail=detail)


def warn(check: str, detail: str, hint: str = "") -> Finding:
    """Return something that somebody should know, though nothing is broken."""
    return Finding(check=check, level="warn", detail=detail, hint=hint)


def fail(check: str, detail: str, hint: str = "") -> Finding:
    """Return that something is broken."""
    return Finding(check=check, level="fail", detail=detail, hint=hint)


def counted(number: int, thing: str, things: str = "") -> str:
    """Return a number of things in words: `1 task`, `3 tasks`, `2,000 bodies`."""
    return f"{number:,} {thing if number == 1 else things or f'{thing}s'}"
