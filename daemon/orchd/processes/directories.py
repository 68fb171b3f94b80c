"""Private directories of runs."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from orchd.processes import marks


def make_directory(mark: str) -> Path:
    """Return a new directory for a run that only this user can enter (mode 0700)."""
    return Path(tempfile.mkdtemp(prefix=marks.directory_prefix(mark)))


def remove_directory(path: Path) -> None:
    """Remove a run's directory with everything in it; links are not followed."""
    shutil.rmtree(path, onerror=_make_writable)


def _make_writable(function: object, path: str, _: object) -> None:
    # A program may take write permission from its own directories.
    parent = Path(path).parent
    try:
        parent.chmod(0o700)
        target = Path(path)
        if target.is_dir() and not target.is_symlink():
            target.chmod(0o700)
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)
    except OSError:
        return
