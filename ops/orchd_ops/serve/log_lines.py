"""The daemon's own log: one line a record on stderr, in a form that journald reads."""

from __future__ import annotations

import logging
import os
import sys

from orchd.config.instants import format_instant
from orchd_ops.plain_text import clean

MICROSECONDS_PER_SECOND = 1_000_000

_PRIORITIES = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


class LineFormatter(logging.Formatter):
    """Writes a record, its traceback too, as one line without control characters.

    Args:
        journal: begin lines with journald's priority instead of the time, which
            journald adds itself (see sd-daemon(3)).
    """

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        line = f"{record.levelname.lower()} {record.name}: {clean(text)}"
        if self._journal:
            return f"<{_PRIORITIES.get(record.levelno, 6)}>{line}"
        instant = round(record.created * MICROSECONDS_PER_SECOND)
        return f"{format_instant(instant)} {line}"


def configure_logging(level: int = logging.INFO) -> None:
    """Send everything from `level` on to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(journal="JOURNAL_STREAM" in os.environ))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # A log that cannot be written any more must not stop the work.
    logging.raiseExceptions = False
    for talkative in ("httpx2", "httpcore2", "anthropic", "uvicorn", "alembic", "asyncio"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
