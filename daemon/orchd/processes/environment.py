"""The environment that other programs get: what they need, and no secret of ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

HANDED_ON = frozenset(
    ("PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL")
)
HANDED_ON_PREFIXES = ("LC_",)
RESERVED = frozenset(
    ("NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "INVOCATION_ID", "JOURNAL_STREAM")
)
RESERVED_PREFIXES = ("ORCHD_", "LISTEN_", "WATCHDOG_")
"""What belongs to the daemon itself and is never handed on, not even when asked for."""
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def is_reserved(name: str) -> bool:
    """Tell whether a variable belongs to the daemon itself."""
    return name in RESERVED or name.startswith(RESERVED_PREFIXES)


def clean_environment(
    environment: Mapping[str, str],
    *,
    configured: Mapping[str, str],
    pass_names: Iterable[str],
    own: Mapping[str, str],
) -> dict[str, str]:
    """Return the environment of a command.

    Args:
        environment: the daemon's own.
        configured: variables that the configuration sets.
        pass_names: variables that the configuration asks to be handed on.
        own: what orchd itself tells the program; it wins.
    """
    named = frozenset(pass_names)
    kept = {
        name: value
        for name, value in environment.items()
        if _is_handed_on(name) or (name in named and not is_reserved(name))
    }
    kept.setdefault("PATH", DEFAULT_PATH)
    merged = {**kept, **configured, **own}
    return {name: _clean(value) for name, value in merged.items()}


def interpreter_environment(
    environment: Mapping[str, str], configured: Mapping[str, str], own: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment of a child that runs configured Python code.

    That code is trusted like the daemon's own, so it gets everything but what belongs to
    the daemon itself.
    """
    kept = {n: value for n, value in environment.items() if not is_reserved(n)}
    return {**kept, **configured, **own}


def _is_handed_on(name: str) -> bool:
    return name in HANDED_ON or name.startswith(HANDED_ON_PREFIXES)


def _clean(value: str) -> str:
    # The kernel takes no NUL in a variable, and no character that has no encoding.
    # Surrogates that stand for undecodable bytes of our own environment are kept.
    text = value.replace("\0", REPLACEMENT)
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8")
    return text
