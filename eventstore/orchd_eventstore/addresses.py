"""Where a database is: what its URL means to the driver."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, unquote

SQLITE_PREFIX = "sqlite:///"
_POSTGRESQL = re.compile(
    r"postgres(?:ql)?(?:\+psycopg)?://"
    # A password may hold what would end the address, such as a slash.
    r"(?:(?P<user>[^:/@]*)(?::(?P<password>[^@]*))?@)?"
    r"(?:\[(?P<ipv6>[^/?\]]+)\]|(?P<host>[^/:?@]+))?"
    r"(?::(?P<port>\d*))?"
    r"(?:/(?P<dbname>[^?]*))?"
    r"(?:\?(?P<query>.*))?",
    re.DOTALL,
)
_ENCODED = ("user", "password", "dbname")


def postgres_parameters(url: str) -> dict[str, Any]:
    """Return the connection parameters that a `postgresql://` URL stands for.

    What follows the question mark are parameters of libpq. `host` may be repeated, with a
    port behind a colon each, for a server that has stand-bys.

    Raises:
        ValueError: it is no such URL.
    """
    found = _matched(url)
    named = {name: value for name, value in found.groupdict().items() if value}
    query = parse_qsl(named.pop("query", ""))
    named["host"] = named.pop("ipv6", None) or named.get("host", "")
    parameters = {
        name: unquote(value) if name in _ENCODED else value
        for name, value in named.items()
        if value
    }
    hosts = [value for name, value in query if name == "host"]
    parameters |= dict(query)
    return parameters if len(hosts) < 2 else parameters | _several(hosts)


def with_database(url: str, name: str) -> str:
    """Return the URL of another database on the same server; `name` needs no encoding.

    Raises:
        ValueError: `url` names no database.
    """
    start, end = _matched(url).span("dbname")
    if start < 0:
        raise ValueError("the URL names no database")
    return f"{url[:start]}{name}{url[end:]}"


def _matched(url: str) -> re.Match[str]:
    found = _POSTGRESQL.fullmatch(url)
    if found is None:
        raise ValueError(
            "must be of the form postgresql://user:password@host/database, "
            "with special characters percent-encoded"
        )
    return found


def _several(hosts: list[str]) -> dict[str, str]:
    pairs = [host.partition(":") for host in hosts]
    return {
        "host": ",".join(host for host, _, _ in pairs),
        "port": ",".join(port for _, _, port in pairs),
    }
