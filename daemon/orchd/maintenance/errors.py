"""What can go wrong with maintenance.

OrchdError
├── CheckpointInvalid    it is none, or not as it was written
│   └── NoSuchCheckpoint there is no such file
├── CheckpointRefused    it would overwrite something
├── NotMended            rows differ from the log although everything was tried
└── NoSuchTask           the log does not know it, or not yet at that moment
"""

from __future__ import annotations

from collections.abc import Sequence

from orchd.errors import OrchdError

_NAMED_MAX = 5


class CheckpointInvalid(OrchdError):
    """The file is no checkpoint, or it is not as it was written."""


class NoSuchCheckpoint(CheckpointInvalid):
    """There is no such file."""

    exit_code = 3


class CheckpointRefused(OrchdError):
    """Going on would overwrite what is there."""

    exit_code = 4


class NotMended(OrchdError):
    """Rows differ from the log although everything was tried.

    Args:
        table: where they are.
        keys: their keys.
    """

    def __init__(self, table: str, keys: Sequence[str]) -> None:
        named = ", ".join(keys[:_NAMED_MAX]) + ("…" if len(keys) > _NAMED_MAX else "")
        super().__init__(
            f"{len(keys)} rows of {table} could not be mended: {named}; something else "
            "holds a value that must be unique, or keeps moving them: try again"
        )
        self.table = table
        self.keys = tuple(keys)


class NoSuchTask(OrchdError):
    """The log does not know the task, or not yet at the moment that was asked about."""

    exit_code = 3

    def __init__(self, task_id: str, position: int) -> None:
        super().__init__(f"there was no task {task_id} at position {position} of the log")
