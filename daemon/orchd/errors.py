"""The exceptions that orchd raises on purpose.

    OrchdError
    ├── ConfigurationError      a key, a rule and the value that breaks it
    └── StateError              the state cannot be used as asked
        ├── StateMissing        there is none
        ├── StateLocked         another process owns it
        ├── StateUnreadable     it is there, but not usable
        ├── SchemaTooOld        it must be upgraded first
        ├── SchemaInUse         daemons of the release before are at work on it
        └── SchemaTooNew        a newer orchd made it

Each message says what happened, to what, and what to do. `exit_code` is what the command
line ends with.
"""

from __future__ import annotations


class OrchdError(Exception):
    """The base of everything below."""

    exit_code = 1


class ConfigurationError(OrchdError):
    """A configuration that cannot be used.

    Args:
        key: the dotted key, or the place (`file`, a variable) that is wrong.
        rule: what the value has to be, as a phrase.
        value: the value that was found, secrets masked; None when there is none.
        origin: where the value came from, such as a file or a variable.
    """

    exit_code = 78

    def __init__(
        self, key: str, rule: str, value: object = None, *, origin: str = ""
    ) -> None:
        found = "" if value is None else f", but it is {value!r}"
        source = f" (from {origin})" if origin else ""
        super().__init__(f"configuration: {key}{source} {rule}{found}")
        self.key = key
        self.origin = origin
        self.rule = rule
        self.value = value


class StateError(OrchdError):
    """The state cannot be used as asked."""

    exit_code = 69


class StateMissing(StateError):
    """There is no state at the place that was named."""


class StateLocked(StateError):
    """Another process owns the state.

    Args:
        message: the whole sentence.
        owner: who owns it, as far as it is known.
    """

    exit_code = 75

    def __init__(self, message: str, owner: str = "") -> None:
        super().__init__(message)
        self.owner = owner


class StateUnreadable(StateError):
    """The state is there but cannot be read or written."""


class SchemaTooOld(StateError):
    """The state's schema is older than this program needs."""

    exit_code = 78


class SchemaInUse(StateError):
    """The state's schema is older, and daemons of an older release are at work on it."""

    exit_code = 75


class SchemaTooNew(StateError):
    """The state's schema is newer than this program knows.

    Args:
        found: the revision of the database.
        known: the newest revision that this program knows.
    """

    exit_code = 78

    def __init__(self, found: str, known: str) -> None:
        super().__init__(
            f"the database's schema {found} is newer than this orchd knows ({known}); "
            "use the release that upgraded it, or a newer one"
        )
        self.found = found
        self.known = known
