"""What can be asked of orchd, independent of how the question arrives."""

from orchd.operations.direct import DirectCommitter
from orchd.operations.intake import Caller
from orchd.operations.operations import Operations

__all__ = ["Caller", "DirectCommitter", "Operations"]
