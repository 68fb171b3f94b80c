"""The header fields of a request."""

from __future__ import annotations

from starlette.types import Scope

Field = tuple[bytes, bytes]
"""A header field as the server reads and writes it: name and value."""


class Fields:
    """Finds fields by their names, which are in lower case; read from the request once."""

    def __init__(self, scope: Scope) -> None:
        self._values: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            self._values.setdefault(name, []).append(value)

    def __contains__(self, name: bytes) -> bool:
        return name in self._values

    def get(self, name: bytes, default: str = "") -> str:
        """Return the first field of a name."""
        values = self._values.get(name)
        return default if values is None else values[0].decode("latin-1")

    def every(self, name: bytes) -> list[str]:
        """Return all fields of a name, in order."""
        return [value.decode("latin-1") for value in self._values.get(name, ())]
