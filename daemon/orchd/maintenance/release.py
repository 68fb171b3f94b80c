"""Which release this program is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """Return the version of the installed package, or `unknown` for a bare checkout."""
    try:
        return version("orchd")
    except PackageNotFoundError:
        return "unknown"
