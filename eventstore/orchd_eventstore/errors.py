"""What can go wrong in an event store.

    EventStoreError
    ├── StoreUnavailable      cannot be reached or is busy; the same call may succeed later
    │   └── OutcomeUnknown    lost at COMMIT: repeat the identical command
    ├── BatchRejected         the database would not store a batch as it is
    ├── InvalidAppend         the caller broke the contract; nothing was sent
    ├── LogCorrupted          what is stored cannot be right
    └── UnknownEvent          a reader met a type of event that it does not know

Driver errors are translated in one place, `translated`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class EventStoreError(Exception):
    """The base of everything below."""


class StoreUnavailable(EventStoreError):  # states a condition
    """The database cannot be reached or is busy; the same call may succeed later."""

    disk_failed = False
    """Whether a file could not be read, written or synced."""


class OutcomeUnknown(StoreUnavailable):
    """The connection was lost when COMMIT may have been carried out.

    Repeat the identical command: it is answered from the log if it was.
    """


class BatchRejected(EventStoreError):
    """The database would not store the batch; `reason` is its own message."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the database would not store the batch: {reason}")
        self.reason = reason


class InvalidAppend(EventStoreError):
    """The caller broke the contract of `append`; nothing was sent."""


class LogCorrupted(EventStoreError):
    """What is stored cannot be right; somebody has to look before anything goes on."""


class UnknownEvent(EventStoreError):
    """A reader met a type of event that it does not know and stops before it."""

    def __init__(self, position: int, event_type: str) -> None:
        super().__init__(
            f"the event at position {position} has the unknown type {event_type!r}; "
            "it was written by a newer release, so upgrade this one"
        )
        self.position = position
        self.event_type = event_type


class CommandRepeated(EventStoreError):
    """The command is in the log already. Never leaves the package."""


COMMAND_CONSTRAINT = "commits_command_id_key"
_SQLITE_BUSY = ("locked", "busy")
_SQLITE_DISK_FAILED = ("disk i/o error", "disk is full", "unable to open", "malformed")
_RETRYABLE_STATES = frozenset(
    # serialization_failure, deadlock_detected, lock_not_available, too_many_connections,
    # admin_shutdown, crash_shutdown, cannot_connect_now, idle_in_transaction_timeout,
    # query_canceled, read_only_sql_transaction (a demoted primary)
    (
        "40001",
        "40P01",
        "55P03",
        "53300",
        "57P01",
        "57P02",
        "57P03",
        "25P03",
        "57014",
        "25006",
    )
)
# Data exceptions, broken constraints, and what exceeds a limit of the server, such as a
# text that is too long for an index.
_REJECTING_CLASSES = ("22", "23", "54")


@contextmanager
def translated(*, at_commit: bool = False) -> Iterator[None]:
    """Turn the errors of the drivers into the store's own."""
    try:
        yield
    except EventStoreError:
        raise
    except Exception as error:
        if not _is_driver_error(error):
            raise
        raise _translate(error, at_commit) from error


@contextmanager
def rejecting() -> Iterator[None]:
    """Turn a value that no driver can carry into a rejection of its batch.

    Integers beyond 64 bits and lone surrogates are refused by the client's side, before
    the database sees them.
    """
    try:
        yield
    except (OverflowError, UnicodeEncodeError) as error:
        raise BatchRejected(str(error)) from error


def _is_driver_error(error: BaseException) -> bool:
    return type(error).__module__.startswith(("psycopg", "pysqlite3", "sqlite3"))


def _translate(error: Any, at_commit: bool) -> EventStoreError:
    state = getattr(error, "sqlstate", None)
    text = " ".join(str(error).split("\nCONTEXT:")[0].split())
    if state is not None:
        return _translate_state(error, state, text)
    kind = type(error).__name__
    if kind in ("IntegrityError", "DataError", "ProgrammingError", "InterfaceError"):
        if kind == "InterfaceError" and "closed" in text:
            return StoreUnavailable(text)
        return BatchRejected(text)
    return _translate_text(text, at_commit)


def _translate_text(text: str, at_commit: bool) -> StoreUnavailable:
    disk_failed = any(word in text.lower() for word in _SQLITE_DISK_FAILED)
    unavailable = StoreUnavailable(text)
    if at_commit and not any(word in text for word in _SQLITE_BUSY):
        what = "COMMIT failed" if disk_failed else "the connection was lost at COMMIT"
        unavailable = OutcomeUnknown(f"{what}: {text}")
    unavailable.disk_failed = disk_failed
    return unavailable


def _translate_state(error: Any, state: str, text: str) -> EventStoreError:
    diagnosis = getattr(error, "diag", None)
    if getattr(diagnosis, "constraint_name", None) == COMMAND_CONSTRAINT:
        return CommandRepeated(text)
    if state in _RETRYABLE_STATES or state.startswith(("08", "53", "58")):
        return StoreUnavailable(text)
    if state.startswith(_REJECTING_CLASSES):
        return BatchRejected(text)
    return EventStoreError(text)
