"""An append-only event store on SQLite and PostgreSQL.

Events are appended in batches under expected versions and a command id; rows of the
user's projections are written in the same transaction. Positions are dense and in commit
order, and a hash chain covers everything. The store knows nothing of what events mean.
"""

from orchd_eventstore.backend import Execute, Producer
from orchd_eventstore.canonical import canonical_json
from orchd_eventstore.errors import (
    BatchRejected,
    EventStoreError,
    InvalidAppend,
    LogCorrupted,
    OutcomeUnknown,
    StoreUnavailable,
    UnknownEvent,
)
from orchd_eventstore.events import (
    ANY_VERSION,
    NO_STREAM,
    Append,
    Appended,
    Blob,
    Commit,
    Conflict,
    Erasure,
    Head,
    NewEvent,
    Produced,
    RecordedEvent,
    Rejected,
)
from orchd_eventstore.projection import Projection, Row
from orchd_eventstore.store import EventStore, Session, Transaction
from orchd_eventstore.tables import Column, Kind, Table
from orchd_eventstore.upcasting import Upcasters, readable
from orchd_eventstore.verification import BadCommit, Verification

__all__ = [
    "ANY_VERSION",
    "NO_STREAM",
    "Append",
    "Appended",
    "BadCommit",
    "BatchRejected",
    "Blob",
    "Column",
    "Commit",
    "Conflict",
    "Erasure",
    "EventStore",
    "EventStoreError",
    "Execute",
    "Head",
    "InvalidAppend",
    "Kind",
    "LogCorrupted",
    "NewEvent",
    "OutcomeUnknown",
    "Produced",
    "Producer",
    "Projection",
    "RecordedEvent",
    "Rejected",
    "Row",
    "Session",
    "StoreUnavailable",
    "Table",
    "Transaction",
    "UnknownEvent",
    "Upcasters",
    "Verification",
    "canonical_json",
    "readable",
]
