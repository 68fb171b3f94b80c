"""Finds whoever can answer: a daemon by its address or socket, or the state itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from orchd.client import Client
from orchd.config import places
from orchd.errors import StateLocked
from orchd.system import RealSystem
from orchd.transport import InvalidToken, SocketTransport, Transport, Unreachable
from orchd_ops.cli.exits import Exit, Failure
from orchd_ops.cli.invocation import Invocation

PROBE_SECONDS = 5.0
"""How long a daemon may take to say that it is there."""
LOCKED_SECONDS = 5.0
"""How long to try again when somebody has the state open but nobody answers: it may be
a daemon that is just starting, or another command."""
RETRY_SECONDS = 0.1

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Reached:
    """Somebody who answers.

    Attributes:
        client: to ask.
        direct: whether it is the state itself, because no daemon answers.
    """

    def __init__(self, transport: Transport, *, direct: bool) -> None:
        self.client = Client(transport=transport)
        self.direct = direct


@contextmanager
def reached(call: Invocation, *, write: bool) -> Iterator[Reached]:
    """Reach the state, and let go of it afterwards.

    Raises:
        StateError: it cannot be opened.
        Unreachable: nobody answers at the address that was named.
    """
    found = reach(call, write=write)
    try:
        yield found
    finally:
        found.client.close()


def reach(call: Invocation, *, write: bool) -> Reached:
    """Like `reached`; the caller closes the client."""
    if call.url is not None:
        return Reached(_address_transport(call, call.url), direct=False)
    system = RealSystem()
    deadline = system.monotonic() + LOCKED_SECONDS
    while True:
        transport = daemon_transport(call)
        if transport is not None:
            return Reached(transport, direct=False)
        try:
            return Reached(_state_transport(call, write=write), direct=True)
        except StateLocked:
            if system.monotonic() >= deadline:
                raise
        system.block(RETRY_SECONDS)


def _address_transport(call: Invocation, url: str) -> Transport:
    try:
        return SocketTransport(url, _token(call, url))
    except InvalidToken as error:
        raise Failure(f"$ORCHD_TOKEN: {error}", Exit.USAGE) from None
    except ValueError as error:
        raise Failure(f"--url: {error}", Exit.USAGE) from None


def _token(call: Invocation, url: str) -> str | None:
    """Return the token for an address; the local daemon's goes to this machine only."""
    given = os.environ.get("ORCHD_TOKEN")
    if given or "://" not in url or url.startswith("unix:"):
        return given or None
    from orchd_ops.http.token import TokenError, read_token

    settings = call.loaded.settings
    named = settings.server.token_file
    if named is None and urlsplit(url).hostname not in LOOPBACK:
        return None
    path = Path(named) if named else places.token_file(settings.database, os.environ)
    try:
        return read_token(path)
    except FileNotFoundError:
        return None
    except TokenError as error:
        raise Failure(str(error), Exit.CONFIGURATION) from None


def daemon_transport(call: Invocation) -> Transport | None:
    """Return the way to the daemon of the state on this machine; None without one."""
    path = places.socket_path(call.loaded.settings.database, os.environ)
    if not path.exists():
        return None
    transport = SocketTransport(path)
    try:
        answer = transport.request("GET", "/livez", timeout_seconds=PROBE_SECONDS)
    except Unreachable:
        # A socket that a dead daemon left behind, or one that somebody else took.
        transport.close()
        return None
    if answer.status == 200:
        return transport
    transport.close()
    return None


def _state_transport(call: Invocation, *, write: bool) -> Transport:
    from orchd_ops.cli.local import LocalTransport

    return LocalTransport(call.loaded.settings, RealSystem(), write=write)
