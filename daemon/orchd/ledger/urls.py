"""Database URLs: which are understood, and when two of them mean the same state.

Imports nothing heavy, because every command of the command line comes through here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

URL_RULE = (
    "must be sqlite:////absolute/path.db, sqlite:///relative/path.db "
    "or postgresql://user@host/database"
)

_POSTGRES_SCHEMES = frozenset({"postgres", "postgresql", "postgresql+psycopg"})
_SECRET_PARAMETERS = frozenset({"password", "passfile", "sslpassword"})
_POSTGRES_PORT = 5432
_UNENCODED = re.compile(r"(//[^:/@]*):.*@", re.DOTALL)


def is_sqlite(url: str) -> bool:
    """Tell whether the URL names a SQLite file."""
    return url.startswith("sqlite:")


def sqlite_path(url: str) -> Path:
    """Return the file that a SQLite URL names, absolute and without symbolic links.

    Raises:
        ValueError: the URL names no file.
    """
    prefix, _, path = url.partition(":///")
    path = path.partition("?")[0]
    if prefix not in ("sqlite", "sqlite+pysqlite") or path in ("", ":memory:"):
        raise ValueError(URL_RULE)
    return Path(os.path.realpath(unquote(path)))


def canonical_url(url: str) -> str:
    """Return one text for all spellings of the same state, without any secret.

    It identifies a state; it is not meant to connect with.

    Raises:
        ValueError: the URL is none that orchd understands.
    """
    if is_sqlite(url):
        return f"sqlite:///{quote(str(sqlite_path(url)))}"
    parts = urlsplit(url)
    if parts.scheme not in _POSTGRES_SCHEMES or not parts.path.strip("/"):
        raise ValueError(URL_RULE)
    user = f"{parts.username}@" if parts.username else ""
    host = (parts.hostname or "").lower()
    parameters = [
        pair for pair in sorted(parse_qsl(parts.query)) if pair[0] not in _SECRET_PARAMETERS
    ]
    query = f"?{urlencode(parameters)}" if parameters else ""
    return f"postgresql://{user}{host}:{parts.port or _POSTGRES_PORT}{parts.path}{query}"


def masked_url(url: str) -> str:
    """Return the URL with its passwords replaced by `***`."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"
    address = parts.netloc
    if "@" in url.partition(f"//{address}")[2]:
        # What ends the address to a parser, such as a slash, may be part of a password
        # that nobody has encoded.
        return _UNENCODED.sub(r"\1:***@", url)
    if parts.password is not None:
        user, _, host = address.rpartition("@")
        address = f"{user.partition(':')[0]}:***@{host}"
    query = "&".join(_masked_parameter(pair) for pair in parts.query.split("&"))
    return parts._replace(netloc=address, query=query).geturl() if address or query else url


def _masked_parameter(pair: str) -> str:
    name, separator, _ = pair.partition("=")
    return f"{name}=***" if separator and name in _SECRET_PARAMETERS else pair
