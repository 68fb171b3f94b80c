"""Where things are: the configuration file, the state, the socket of a daemon."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from orchd.errors import ConfigurationError
from orchd.ledger.urls import canonical_url, is_sqlite, sqlite_path

SOCKET_PATH_BYTES_MAX = 107
"""What fits into `sun_path` of a Linux socket address, its final zero byte aside."""

_FILE_NAME = "orchd.toml"
_HASH_LENGTH = 16


def find_config_file(
    explicit: str | None, environ: Mapping[str, str], directory: Path
) -> Path | None:
    """Return the configuration file to read, or None when there is none.

    Args:
        explicit: what `--config` named.
        environ: the process's environment.
        directory: the current directory.

    Raises:
        ConfigurationError: a file that was asked for by name is not there.
    """
    asked = explicit or environ.get("ORCHD_CONFIG")
    if asked:
        path = directory / asked
        if not path.is_file():
            source = "--config" if explicit else "$ORCHD_CONFIG"
            raise ConfigurationError(source, "must name an existing file", asked)
        return path
    for path in _usual_files(environ, directory):
        if path.is_file():
            return path
    return None


def _usual_files(environ: Mapping[str, str], directory: Path) -> list[Path]:
    return [
        directory / _FILE_NAME,
        _base(environ, "XDG_CONFIG_HOME", ".config") / "orchd" / _FILE_NAME,
        Path("/etc/orchd") / _FILE_NAME,
    ]


def default_database(environ: Mapping[str, str]) -> str:
    """Return the URL of the state when nobody says where it is."""
    # systemd may name several directories, separated by colons; the first is ours.
    state_directory = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if state_directory:
        return f"sqlite:///{Path(state_directory) / 'orchd.db'}"
    return (
        f"sqlite:///{_base(environ, 'XDG_STATE_HOME', '.local/state') / 'orchd/orchd.db'}"
    )


def _base(environ: Mapping[str, str], variable: str, below_home: str) -> Path:
    named = environ.get(variable, "")
    # The XDG specification has relative paths ignored.
    if named.startswith("/"):
        return Path(named)
    return Path(environ.get("HOME") or os.path.expanduser("~")) / below_home


def runtime_directory(environ: Mapping[str, str]) -> Path:
    """Return the directory for sockets; the last resort is made if need be.

    Raises:
        ConfigurationError: somebody else owns the last resort.
    """
    named = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    for candidate in (named, environ.get("XDG_RUNTIME_DIR", "")):
        if candidate.startswith("/") and os.path.isdir(candidate):
            return Path(candidate)
    return _private_directory()


def _private_directory() -> Path:
    path = Path(tempfile.gettempdir()) / f"orchd-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise ConfigurationError(
            "XDG_RUNTIME_DIR",
            f"must name a directory, since {path} cannot be made: {error}",
        ) from error
    # The directory lies where everybody may write: somebody could have made it first.
    private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
    if not private or found.st_uid != os.getuid():
        raise ConfigurationError(
            "XDG_RUNTIME_DIR", f"must name a directory, since {path} is not private to you"
        )
    return path


def state_hash(database: str) -> str:
    """Return a short text that is the same for all spellings of a state's URL."""
    digest = hashlib.sha256(canonical_url(database).encode()).hexdigest()
    return digest[:_HASH_LENGTH]


def socket_path(database: str, environ: Mapping[str, str]) -> Path:
    """Return where the daemon of this state has its local socket.

    Raises:
        ConfigurationError: the runtime directory's path is too long for a socket.
    """
    path = runtime_directory(environ) / f"orchd-{state_hash(database)}.sock"
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        path = _private_directory() / path.name
    return path


def token_file(database: str, environ: Mapping[str, str]) -> Path:
    """Return where a daemon keeps the token that it makes at its first start."""
    if is_sqlite(database):
        state = sqlite_path(database)
        return state.with_name(f"{state.name}.token")
    default = sqlite_path(default_database(environ))
    return default.with_name(f"{socket_path(database, environ).stem}.token")


def replay_record(database: str, environ: Mapping[str, str]) -> Path:
    """Return where a replay of this state keeps how far it got."""
    if is_sqlite(database):
        state = sqlite_path(database)
        return state.with_name(f"{state.name}.replay")
    home = _base(environ, "XDG_STATE_HOME", ".local/state")
    return home / "orchd" / "replays" / f"{state_hash(database)}.json"
