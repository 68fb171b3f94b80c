"""What can go wrong with a checkpoint.

OrchdError
├── CheckpointInvalid    it is none, or not as it was written
└── CheckpointRefused    it would overwrite something
"""

from __future__ import annotations

from orchd.errors import OrchdError


class CheckpointInvalid(OrchdError):
    """The file is no checkpoint, or it is not as it was written."""


class CheckpointRefused(OrchdError):
    """Going on would overwrite what is there."""

    exit_code = 4
