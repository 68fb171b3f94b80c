"""One request as the handlers see it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.types import ASGIApp

from orchd.config.durations import parse_duration
from orchd.operations import Caller, Operations
from orchd.operations.errors import Fault, Invalid, invalid
from orchd.operations.json_text import shorten
from orchd.operations.names import KEY_RULE, is_key
from orchd_ops.http.bodies import read_body
from orchd_ops.http.fields import Fields
from orchd_ops.http.limits import Gate

WAIT_SECONDS_MAX = 60.0
"""How long one request may be held open for news."""
PAGE_DEFAULT = 100
PAGE_MAX = 1000
NUMBER_MAX = 2**63 - 1
REASON_CHARACTERS_MAX = 1000

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_NO_QUERY = QueryParams()
_NUMBER = re.compile(r"\d{1,19}", re.ASCII)


class Services(NamedTuple):
    """What handlers work with, the same for all requests of an app."""

    operations: Operations
    metrics: Callable[[str], Awaitable[tuple[str, bytes]]] | None
    health: Callable[[], Awaitable[Collection[str]]]
    waiters: Gate
    streams: Gate
    document: Callable[[], bytes]
    actor: str


class Call:
    """A request, with checked ways to get at what it says."""

    def __init__(self, request: Request, services: Services) -> None:
        self.request = request
        self.services = services
        self.operations = services.operations
        self.fields = Fields(request.scope)

    @property
    def path(self) -> Mapping[str, str]:
        """The parameters within the path, decoded."""
        return self.request.path_params

    @property
    def query(self) -> QueryParams:
        """The parameters of the query."""
        # Most requests have none, and there is nothing to take apart.
        if not self.request.scope["query_string"]:
            return _NO_QUERY
        return self.request.query_params

    async def body(self) -> Any:
        """Return the parsed body or None; see `read_body` for what it raises."""
        return await read_body(self.fields, self.request.receive)

    async def reason(self) -> str:
        """Return the reason given in the body of an action; the body may be missing."""
        body = await self.body()
        if body is None:
            return ""
        rule = f"must be an object with nothing but reason, up to {REASON_CHARACTERS_MAX}"
        if not isinstance(body, dict) or body.keys() - {"reason"}:
            raise _fault("", rule, body)
        reason = body.get("reason") or ""
        if not isinstance(reason, str) or len(reason) > REASON_CHARACTERS_MAX:
            raise _fault("reason", rule, reason)
        if not reason.replace("\n", " ").isprintable():
            raise _fault("reason", "must be printable text", reason)
        return reason

    def caller(self, reason: str = "") -> Caller:
        """Return who asks, as far as the request says it."""
        actor = self.fields.get(b"orchd-actor")
        trace = self.fields.get(b"traceparent")
        return Caller(
            actor=actor if is_key(actor) else self.services.actor,
            reason=reason,
            traceparent=trace if _TRACEPARENT.fullmatch(trace) else None,
        )

    def idempotency_key(self) -> str | None:
        """Return the header's key; raises `Invalid` when it cannot be one."""
        given = self.fields.every(b"idempotency-key")
        if not given:
            return None
        key = given[0]
        with suppress(UnicodeDecodeError):
            key = key.encode("latin-1").decode("utf-8")
        if len(key) > 2 and key[0] == key[-1] == '"':
            key = key[1:-1]
        if len(given) > 1 or not is_key(key):
            raise _fault("Idempotency-Key", KEY_RULE, key)
        return key

    def check_query(self, *names: str) -> None:
        """Refuse unknown and repeated parameters; only `status` may be repeated."""
        query = self.query
        for name in query:
            if name not in names:
                known = ", ".join(names) or "none"
                rule = f"is no parameter here; the parameters are {known}"
                raise _fault(name, rule, query[name])
            if name != "status" and len(query.getlist(name)) > 1:
                raise _fault(name, "must be given once", query.getlist(name))

    def text(self, name: str) -> str | None:
        """Return a parameter as text that a database can be asked for."""
        value = self.query.get(name)
        if value is not None and ("\0" in value or len(value) > PAGE_MAX):
            raise _fault(name, "must be shorter text without NUL", value)
        return value

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """Return a whole number between two bounds."""
        value = self.query.get(name)
        if value is None:
            return default
        if _NUMBER.fullmatch(value) is None or not low <= int(value) <= high:
            raise _fault(name, f"must be a whole number from {low} to {high}", value)
        return int(value)

    def limit(self) -> int:
        """Return the wanted size of a page."""
        return self.number("limit", PAGE_DEFAULT, 1, PAGE_MAX)

    def wait_seconds(self) -> float:
        """Return how long to wait for news, at most `WAIT_SECONDS_MAX`."""
        value = self.query.get("wait")
        if value is None:
            return 0.0
        try:
            return min(parse_duration(value), WAIT_SECONDS_MAX)
        except ValueError as error:
            raise _fault("wait", str(error), value) from None

    def flag(self, name: str) -> bool:
        """Return a parameter that is `true` or `false`."""
        value = self.query.get(name, "false")
        if value not in ("true", "false"):
            raise _fault(name, "must be true or false", value)
        return value == "true"


def _fault(field: str, rule: str, value: Any) -> Invalid:
    return invalid([Fault(field=shorten(field), rule=rule, value=shorten(value))])


Handler: TypeAlias = Callable[[Call], Awaitable[ASGIApp]]
