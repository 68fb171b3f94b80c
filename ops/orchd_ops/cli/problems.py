"""What the API and the ledger raise, as failures of the command line."""

from __future__ import annotations

import sys

from orchd.client import Conflict, NotFound, Problem, Refused, Unauthorized, Unavailable
from orchd.ledger.port import LedgerUnavailable
from orchd.transport import Unreachable
from orchd_ops.cli.exits import Exit, Failure

_CODES: tuple[tuple[type[Exception], Exit], ...] = (
    (NotFound, Exit.NOT_FOUND),
    (Conflict, Exit.CONFLICT),
    (Unauthorized, Exit.CONFIGURATION),
    (Unavailable, Exit.TRY_AGAIN),
    (Refused, Exit.USAGE),
    (Problem, Exit.FAILED),
    (TimeoutError, Exit.TRY_AGAIN),
    (Unreachable, Exit.UNAVAILABLE),
    (LedgerUnavailable, Exit.UNAVAILABLE),
)


def translate(error: Exception) -> Failure | None:
    """Return the failure that an exception stands for, or None for a fault of ours."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return Failure(_sentence(error), code)
    return _translate_store(error)


def _translate_store(error: Exception) -> Failure | None:
    """Translate what the event store raises, without importing it for its errors' sake."""
    store = sys.modules.get("orchd_eventstore")
    if store is None or not isinstance(error, store.EventStoreError):
        return None
    away = isinstance(error, store.StoreUnavailable)
    return Failure(str(error), Exit.UNAVAILABLE if away else Exit.FAILED)


def _sentence(error: Exception) -> str:
    if isinstance(error, Unauthorized):
        return f"{error}; set ORCHD_TOKEN or server.token_file to the daemon's token"
    if isinstance(error, Unavailable):
        return f"{error}; try again in {error.retry_after_seconds:g} s"
    if isinstance(error, Problem) and error.errors:
        return "; ".join(_fault(fault) for fault in error.errors)
    return str(error)


def _fault(fault: dict[str, object]) -> str:
    found = fault.get("value")
    ending = "" if found is None else f", but it is {found!r}"
    return f"{fault.get('field')} {fault.get('rule')}{ending}".strip()
