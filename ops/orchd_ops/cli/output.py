"""Data to stdout, messages to stderr; tables for people, JSON for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchd_ops.plain_text import clean

__all__ = ["Output", "as_json", "cell", "clean", "plain_table", "say", "write"]

Item = Mapping[str, Any]

_COLUMN_GAP = "  "


def say(message: str) -> None:
    """Write one message to stderr."""
    print(message, file=sys.stderr, flush=True)  # noqa: T201  a command line prints


def write(text: str) -> None:
    """Write one line of data to stdout."""
    sys.stdout.write(text + "\n")


def cell(value: object) -> str:
    """Return what a table shows for a value."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ",".join(map(cell, value))
    if isinstance(value, Mapping):
        return " ".join(f"{clean(str(key))}={cell(item)}" for key, item in value.items())
    return clean(str(value))


def as_json(value: object) -> str:
    """Return a value as compact JSON on one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


class Output:
    """Writes results in the format that was asked for.

    Args:
        form: `table`, `json` or `jsonl`.
        color: whether tables may be coloured; only on a terminal they are.
    """

    def __init__(self, form: str, *, color: bool) -> None:
        self.form = form
        self.color = color and not os.environ.get("NO_COLOR")

    def listing(
        self,
        items: Iterable[Item],
        columns: Sequence[str],
        next_cursor: str | None = None,
        **more: object,
    ) -> None:
        """Write a listing; `columns` are the keys that a table shows."""
        if self.form == "jsonl":
            for item in items:
                write(as_json(item))
        elif self.form == "json":
            whole = {"items": list(items), "next_cursor": next_cursor, **more}
            write(json.dumps(whole, ensure_ascii=False, indent=2, default=str))
        else:
            self._table(
                [*columns], [[cell(item.get(c)) for c in columns] for item in items]
            )
            if next_cursor:
                say(f"more: --cursor {next_cursor}")

    def single(self, item: Item) -> None:
        """Write one thing: its object, or a line for each of its fields."""
        if self.form == "json":
            write(json.dumps(item, ensure_ascii=False, indent=2, default=str))
        elif self.form == "jsonl":
            write(as_json(item))
        else:
            self._fields({key: value for key, value in item.items() if value is not None})

    def _fields(self, item: Item) -> None:
        width = max(map(len, item), default=0)
        for key, value in item.items():
            # A long text keeps its lines; everything below the first is indented.
            first, *more = _lines(value)
            write(f"{key:<{width}}{_COLUMN_GAP}{first}".rstrip())
            for line in more:
                write(f"{'':<{width}}{_COLUMN_GAP}{line}".rstrip())

    def acted(self, item: Item, sentence: str) -> None:
        """Write what a command did: the sentence for people, the object for programs."""
        if self.form == "table":
            write(sentence)
        else:
            self.single(item)

    def _table(self, columns: list[str], rows: list[list[str]]) -> None:
        if sys.stdout.isatty():
            from orchd_ops.cli.terminal import draw_table

            draw_table(columns, rows, color=self.color)
            return
        for line in plain_table(columns, rows):
            write(line)


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table with aligned columns under capital headings."""
    headed = [[name.upper() for name in columns], *rows]
    widths = [max(len(row[index]) for row in headed) for index in range(len(columns))]
    return [
        _COLUMN_GAP.join(
            text.ljust(width) for text, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in headed
    ]


def _lines(value: object) -> list[str]:
    if isinstance(value, str):
        return [clean(line) for line in value.rstrip("\n").split("\n")]
    return [as_json(value) if isinstance(value, Mapping | list) else cell(value)]
