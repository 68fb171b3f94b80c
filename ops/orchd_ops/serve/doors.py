"""Where the daemon listens, and who may enter: checked before anything is opened."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from orchd.config import places
from orchd.config.settings import Settings
from orchd.errors import ConfigurationError, StateLocked
from orchd.ledger.urls import is_sqlite
from orchd.system import System
from orchd_ops.http.listening import is_loopback, listen_tcp, listen_unix
from orchd_ops.http.token import TokenError, ensure_token, read_token

logger = logging.getLogger(__name__)

PROBE_SECONDS = 1.0
CREDENTIAL_NAME = "token"


class Address(NamedTuple):
    """Where TCP connections are accepted."""

    host: str
    port: int

    def url(self, port: int) -> str:
        """Return the base URL for the port that was taken."""
        return f"http://{self.host}:{port}"


def address_of(settings: Settings) -> Address:
    """Return where to listen, as configured."""
    host, _, port = settings.server.listen.rpartition(":")
    return Address(host, int(port))


def require_safe(settings: Settings, environ: Mapping[str, str]) -> None:
    """Refuse an address that others can reach, unless somebody chose a token for it.

    Raises:
        ConfigurationError: no token was configured.
    """
    if is_loopback(address_of(settings).host.strip("[]")):
        return
    if _named_token(settings, environ) is None:
        raise ConfigurationError(
            "server.listen",
            "must be a loopback address unless server.token_file names a token's file",
            settings.server.listen,
        )


def _named_token(settings: Settings, environ: Mapping[str, str]) -> Path | None:
    if settings.server.token_file is not None:
        return Path(settings.server.token_file)
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    if credentials and (path := Path(credentials) / CREDENTIAL_NAME).is_file():
        return path
    return None


def token_of(settings: Settings, environ: Mapping[str, str], system: System) -> str:
    """Return the token that TCP callers must present, made if nobody chose one.

    Raises:
        ConfigurationError: the file cannot be used.
    """
    named = _named_token(settings, environ)
    try:
        if named is not None:
            return read_token(named)
        path = places.token_file(settings.database, environ)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return ensure_token(path, system)
    except FileNotFoundError:
        raise ConfigurationError(
            "server.token_file", "must name an existing file", str(named)
        ) from None
    except (TokenError, OSError) as error:
        raise ConfigurationError("server.token_file", f"cannot be used: {error}") from None


def open_tcp(settings: Settings) -> socket.socket:
    """Return the listening TCP socket.

    Raises:
        StateLocked: somebody else listens there.
        ConfigurationError: nobody can listen there.
    """
    address = address_of(settings)
    try:
        return listen_tcp(address.host, address.port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StateLocked(
                f"cannot listen on {settings.server.listen}: another program does; "
                "stop it, or choose another address with --listen (port 0: any free one)"
            ) from error
        reason = error.strerror or str(error)
        raise ConfigurationError(
            "server.listen",
            f"must be an address of this machine ({reason})",
            settings.server.listen,
        ) from error


class LocalDoor:
    """The local socket of a state's daemon, if this daemon can have it."""

    def __init__(self, database: str, environ: Mapping[str, str]) -> None:
        self._database = database
        self._environ = environ
        self._path: Path | None = None
        self._identity: tuple[int, int] | None = None

    def open(self) -> socket.socket | None:
        """Return the listening socket, or None when another daemon has it."""
        try:
            path = places.socket_path(self._database, self._environ)
            if not is_sqlite(self._database) and _answers(path):
                logger.info("another daemon of this database has the local socket %s", path)
                return None
            listener = listen_unix(str(path))
            found = path.stat()
        except (OSError, ConfigurationError) as error:
            logger.warning("there is no local socket: %s", error)
            return None
        self._path, self._identity = path, (found.st_dev, found.st_ino)
        return listener

    def open_again(self) -> socket.socket | None:
        """Return a new listening socket when somebody has removed the file of the last.

        Whoever tidies up temporary files removes what has not changed for days.
        """
        if self._path is None or self._path.exists():
            return None
        listener = self.open()
        if listener is not None:
            logger.warning("the local socket %s was removed; made anew", self._path)
        return listener

    def remove(self) -> None:
        """Remove the socket's file, unless it is another daemon's by now."""
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            found = self._path.stat()
            if (found.st_dev, found.st_ino) == self._identity:
                os.unlink(self._path)
        self._path = None


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
