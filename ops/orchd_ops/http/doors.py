"""The doors that every request passes, in this order: Host, Origin, token.

They stand before the routes, so that whoever may not enter learns nothing, not even
which paths exist.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable

import msgspec
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchd_ops.http.fields import Field, Fields
from orchd_ops.http.listening import is_loopback
from orchd_ops.http.problems import problem

OPEN_PATHS = frozenset({"/livez", "/readyz", "/metrics"})
"""What needs no token on loopback; compared exactly, never by prefix."""
SAFE_METHODS = frozenset({"GET", "HEAD"})

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_SECURITY = tuple(
    (name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()
)

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?", re.ASCII)


class Doors(msgspec.Struct, frozen=True, kw_only=True):
    """Who may enter through one listener."""

    token: str | None
    """What TCP callers must present; None for a socket that knows its callers."""
    loopback: bool = True
    """Whether only this machine can reach the listener."""
    hosts: frozenset[str] = frozenset()
    """Lower-case host names that may be asked for, besides loopback's."""
    any_address: bool = False
    """Whether every IP address may be asked for, because all are listened on."""

    @classmethod
    def for_socket(cls) -> Doors:
        """Return the doors of a local socket, whose server has checked the peer."""
        return cls(token=None)

    @classmethod
    def for_listener(
        cls, host: str, token: str, allowed_hosts: Iterable[str] = ()
    ) -> Doors:
        """Return the doors of a TCP listener on `host`.

        Raises:
            ValueError: the token is empty.
        """
        if not token:
            raise ValueError("a TCP listener needs a token")
        name = host.strip("[]").lower()
        return cls(
            token=token,
            loopback=is_loopback(name),
            hosts=frozenset({name, *(host.strip("[]").lower() for host in allowed_hosts)}),
            any_address=name in ("", "0.0.0.0", "::"),
        )


class DoorKeeper:
    """ASGI middleware that lets in whom `Doors` allow, and adds security headers."""

    def __init__(self, app: ASGIApp, doors: Doors) -> None:
        self._app = app
        self._doors = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            # There is no other protocol here, and a websocket must not slip past.
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _with_security(message["headers"])
            await send(message)

        refusal = check(self._doors, scope)
        app = self._app if refusal is None else refusal
        await app(scope, receive, send_with_headers)


def _with_security(headers: Iterable[Field]) -> list[Field]:
    given = dict(headers)
    return [*headers, *(field for field in _SECURITY if field[0] not in given)]


def check(doors: Doors, scope: Scope) -> Response | None:
    """Return why a request may not enter, or None when it may."""
    fields = Fields(scope)
    return (
        _check_host(doors, fields)
        or _check_origin(scope["method"], fields)
        or _check_token(doors, scope["path"], fields)
    )


def _check_host(doors: Doors, fields: Fields) -> Response | None:
    given = fields.every(b"host")
    if len(given) == 1 and _host_allowed(doors, given[0]):
        return None
    detail = "this host is not served here; allow it with server.allowed_hosts"
    return problem(421, "foreign_host", detail)


def _host_allowed(doors: Doors, value: str) -> bool:
    match = _HOST.fullmatch(value)
    if match is None:
        return False
    name = match["name"].strip("[]").lower()
    if name in doors.hosts or is_loopback(name):
        return True
    return doors.any_address and _is_address(name)


def _is_address(name: str) -> bool:
    # An address cannot be rebound to another machine, a name can.
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _check_origin(method: str, fields: Fields) -> Response | None:
    if method in SAFE_METHODS:
        return None
    site = fields.get(b"sec-fetch-site").strip().lower()
    host = fields.get(b"host").lower()
    own = (f"http://{host}", f"https://{host}")
    foreign = any(origin.strip().lower() not in own for origin in fields.every(b"origin"))
    if not foreign and site != "cross-site":
        return None
    return problem(403, "foreign_origin", "a page of another origin may not do this")


def _check_token(doors: Doors, path: str, fields: Fields) -> Response | None:
    if doors.token is None or (doors.loopback and path in OPEN_PATHS):
        return None
    given = fields.every(b"authorization")
    scheme, _, value = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    challenge = {"WWW-Authenticate": 'Bearer realm="orchd"'}
    if scheme.lower() != "bearer" or not value.strip():
        detail = "send the header Authorization: Bearer TOKEN"
        return problem(401, "no_token", detail, headers=challenge)
    expected = doors.token.encode("utf-8", "surrogateescape")
    if hmac.compare_digest(value.strip().encode("latin-1", "replace"), expected):
        return None
    return problem(403, "wrong_token", "this token is not the daemon's")
