"""What listings share: pages, filters, paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import click

from orchd_ops.cli.invocation import Invocation
from orchd_ops.cli.reach import reached

LIMIT_DEFAULT = 100
LIMIT_MAX = 1000

Function = TypeVar("Function", bound=Callable[..., Any])


def paging_options(function: Function) -> Function:
    """Add `--limit` and `--cursor` to a command."""
    limit = click.option(
        "--limit",
        type=click.IntRange(1, LIMIT_MAX),
        default=LIMIT_DEFAULT,
        show_default=True,
        help="Most items of this page.",
    )
    cursor = click.option("--cursor", metavar="TEXT", help="Continue where a page ended.")
    return limit(cursor(function))


def filter_option(name: str, **attributes: Any) -> Callable[[Function], Function]:
    """Add a filter to a command; an empty one is refused, since it would hold for all."""
    return click.option(name, callback=_require_text, **attributes)


def _require_text(context: click.Context, option: click.Parameter, value: Any) -> Any:
    if value == "":
        raise click.BadParameter("must not be empty", context, option)
    return value


def without_nothing(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that were given."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value not in (None, "", (), {}, False)
    }


def path(*parts: str) -> str:
    """Return the API's path of these parts, encoded."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def _as_it_is(item: dict[str, Any]) -> dict[str, Any]:
    return item


def listing(
    call: Invocation,
    resource: str,
    query: Mapping[str, Any],
    columns: Sequence[str],
    present: Callable[[dict[str, Any]], dict[str, Any]] = _as_it_is,
) -> None:
    """Write one page of a listing; `present` prepares an item for a table."""
    question = urlencode(without_nothing(query), doseq=True)
    with reached(call, write=False) as found:
        page = found.client.request(
            "GET", f"{resource}?{question}" if question else resource
        )
    items = page["items"]
    if call.output.form == "table":
        items = [present(item) for item in items]
    call.output.listing(items, columns, page["next_cursor"])
